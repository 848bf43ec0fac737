"""What an argument means: a config.json, a model folder, a repository of the hub, or nothing of the kind."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archcalc.errors import InputError
from archcalc.files.loader import find
from archcalc.hf import hub as client
from archcalc.hf.source import CONFIG, FILES, INDEX, QUANT, Source, source_of
from tests.hf.hub_server import COMMIT, OLD, Handler, Hub, drip, in_a_process, serving

MODEL = "moon/Tiny-1.5"
CONFIG_TEXT = b'{\n  "model_type": "tiny",\n  "hidden_size": 8\n}\n'
INDEX_TEXT = b'{"metadata": {"total_size": 3}, "weight_map": {"a": "model-1.safetensors"}}'


def read(argument: str) -> Source:
    found = source_of(argument)
    assert found is not None
    return found


def refusal(argument: str) -> InputError:
    with pytest.raises(InputError) as caught:
        source_of(argument)
    return caught.value


# ---------------------------------------------------------------------------------------------- this machine


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(here: Path) -> Path:
    made = here / "Tiny-1.5"
    made.mkdir()
    (made / CONFIG).write_bytes(CONFIG_TEXT)
    return made


@pytest.mark.parametrize("argument", ["Tiny-1.5", "Tiny-1.5/", "./Tiny-1.5", "Tiny-1.5/config.json"])
def test_a_folder_and_the_config_in_it_are_the_same_release(argument: str, folder: Path) -> None:
    (folder / INDEX).write_bytes(INDEX_TEXT)
    found = read(argument)
    assert found.name == "Tiny-1.5"
    assert found.config.data["hidden_size"] == 8
    assert found.quant is None
    assert found.index is not None
    assert found.index.data["metadata"]["total_size"] == 3
    assert os.path.samefile(found.where, folder / CONFIG)
    assert found.where == found.config.source


def test_a_quantization_config_beside_it_is_read(folder: Path) -> None:
    (folder / QUANT).write_text('{"quantization": {"quant_algo": "FP8"}}')
    quant = read(str(folder)).quant
    assert quant is not None
    assert quant.data["quantization"]["quant_algo"] == "FP8"


def test_a_config_where_one_stands_is_called_like_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [read(argument).name for argument in ("config.json", ".")] == ["Tiny-1.5"] * 2


def test_a_json_file_of_another_name_stands_alone(folder: Path) -> None:
    (folder / "saved.json").write_bytes(CONFIG_TEXT)
    (folder / INDEX).write_bytes(INDEX_TEXT)
    found = read(str(folder / "saved.json"))
    assert (found.name, found.index, found.quant) == ("saved", None, None)


def test_a_folder_of_the_hubs_cache_is_called_like_its_repository(here: Path) -> None:
    snapshot = here / "models--moon--Tiny-1.5" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / CONFIG).write_bytes(CONFIG_TEXT)
    assert read(str(snapshot)).name == "Tiny-1.5"


@pytest.mark.parametrize("argument", ["k25", "", "-", "s.yaml", "none", "org/name", "a\0b", "empty/none.yaml"])
def test_what_names_no_release_is_left_to_others(argument: str, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "s.yaml").write_text("kind: spec\n")
    (here / CONFIG).write_bytes(CONFIG_TEXT)  # the empty argument is not this folder
    assert source_of(argument) is None


def test_a_folder_does_not_hide_a_bundled_spec(here: Path) -> None:
    (here / "k25").mkdir()
    (here / "k25" / CONFIG).write_bytes(CONFIG_TEXT)
    assert source_of("k25") is None
    assert read("./k25").name == "k25"


def test_files_that_are_there_have_to_be_readable(folder: Path) -> None:
    assert refusal("none/config.json").message == "no such file"
    (folder / QUANT).symlink_to("gone")
    assert refusal("Tiny-1.5").source == "Tiny-1.5/hf_quant_config.json"
    (folder / QUANT).unlink()
    (folder / INDEX).write_text("{\n]")
    error = refusal("Tiny-1.5")
    assert (error.source, error.line) == ("Tiny-1.5/model.safetensors.index.json", 2)
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    assert refusal("Tiny-1.5").message == "this is a directory"


def test_the_index_may_be_larger_than_a_config(folder: Path) -> None:
    content = b'{"weight_map": {}, "pad": "' + b"x" * FILES[CONFIG].most + b'"}'
    (folder / INDEX).write_bytes(content)
    assert read("Tiny-1.5").index is not None
    (folder / CONFIG).write_bytes(content)
    assert refusal("Tiny-1.5").message == "the file is larger than 16 MiB"
    (folder / CONFIG).write_bytes(CONFIG_TEXT)
    with (folder / INDEX).open("wb") as file:
        file.truncate(FILES[INDEX].most + 1)
    assert refusal("Tiny-1.5").message == "the file is larger than 64 MiB"


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("moon/Tiny-1.5", "did you mean hf:moon/Tiny-1.5?"),
        ("https://huggingface.co/moon/Tiny-1.5", "did you mean hf:moon/Tiny-1.5?"),
        ("https://huggingface.co/moon/Tiny-1.5/tree/main", "did you mean hf:moon/Tiny-1.5?"),
        ("https://hf.co/moon/Tiny-1.5", "did you mean hf:moon/Tiny-1.5?"),
    ],
)
def test_a_name_of_the_hub_without_its_prefix_is_answered_with_it(argument: str, hint: str, here: Path) -> None:
    assert source_of(argument) is None
    with pytest.raises(InputError) as caught:
        find(argument)
    assert (caught.value.message, caught.value.hint) == ("no such file", hint)


@pytest.mark.parametrize("argument", ["specs/k52", "moon/s.yaml", "a/b/c", "./k52", "/moon/Tiny", "../k52"])
def test_a_path_is_not_taken_for_a_name_of_the_hub(argument: str, here: Path) -> None:
    (here / "specs").mkdir()
    assert find(argument) == Path(argument)
    assert find("moon/Tiny-1.5", "plans") == Path("moon/Tiny-1.5")


# --------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on the loopback with one model, and huggingface_hub in this process set to it, with an empty cache."""
    with serving(Hub({f"{MODEL}/{CONFIG}": CONFIG_TEXT})) as hub:
        settle(monkeypatch, hub.url, here / "cache")
        yield hub


def settle(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """What huggingface_hub would have read from the environment when it was imported."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    values = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_ETAG_TIMEOUT": 1,
        "HF_HUB_DOWNLOAD_TIMEOUT": 1,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def everything(hub: Hub) -> None:
    hub.files[f"{MODEL}/{QUANT}"] = b'{"quantization": {}}'
    hub.files[f"{MODEL}/{INDEX}"] = INDEX_TEXT
    hub.files[f"{MODEL}/model-1.safetensors"] = b"weights"
    hub.files[f"{MODEL}/modeling_tiny.py"] = b"raise SystemExit"


def test_a_repository_is_read_and_nothing_but_the_three_files_is_asked_for(hub: Hub) -> None:
    everything(hub)
    found = read(f"hf:{MODEL}")
    assert found.name == "Tiny-1.5"
    assert found.where == f"hf:{MODEL}@{COMMIT}"
    assert found.config.data == {"model_type": "tiny", "hidden_size": 8}
    assert found.config.position(("hidden_size",)) == (3, 18)
    assert found.config.source == f"hf:{MODEL}/config.json"
    assert found.quant is not None
    assert found.index is not None
    assert {asked.path.rpartition("/")[2] for asked in hub.asked} == set(FILES)
    assert [asked.path.rpartition("/")[2] for asked in hub.asked if asked.method == "GET"] == list(FILES)
    assert {asked.path for asked in hub.asked if CONFIG not in asked.path.split("/")} == {
        f"/{MODEL}/resolve/{COMMIT}/{name}" for name in (QUANT, INDEX)
    }  # of the commit that the config is of, even if another is pushed meanwhile
    assert {asked.token for asked in hub.asked} == {None}


def test_a_file_that_is_not_there_is_none(hub: Hub) -> None:
    found = read(f"hf:{MODEL}")
    assert (found.quant, found.index) == (None, None)


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_a_revision_is_read_and_all_files_are_of_its_commit(revision: str, hub: Hub) -> None:
    everything(hub)
    hub.files[f"{MODEL}@OLD/{CONFIG}"] = b'{"hidden_size": 4}'
    found = read(f"hf:{MODEL}@{revision}")
    assert found.config.data == {"hidden_size": 4}
    assert (found.index, found.where) == (None, f"hf:{MODEL}@{OLD}")


def test_what_is_cached_is_not_fetched_again_and_a_whole_hash_asks_nothing(hub: Hub) -> None:
    everything(hub)
    first = read(f"hf:{MODEL}")
    hub.asked.clear()
    again = read(f"hf:{MODEL}")
    assert {asked.method for asked in hub.asked} == {"HEAD"}  # is it still the newest?
    hub.asked.clear()
    pinned = read(first.where)
    assert hub.asked == []
    assert first.config.data == again.config.data == pinned.config.data
    assert pinned.index is not None


def test_the_token_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    read(f"hf:{MODEL}")
    assert {asked.token for asked in hub.asked} == {"Bearer hf_secret"}


def test_a_token_that_is_none_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e9")
    error = refusal(f"hf:{MODEL}")
    assert (error.message, error.hint) == ("the access token has characters that none has", "check HF_TOKEN")
    assert hub.asked == []


def test_a_repository_that_has_moved_is_followed(hub: Hub) -> None:
    def moved(handler: Handler) -> bool:
        if not handler.path.startswith("/old/"):
            return False
        handler.answer(307, {"Location": handler.path.replace("/old/name/", f"/{MODEL}/")})
        return True

    hub.trouble = moved
    assert read("hf:old/name").config.data["hidden_size"] == 8


def test_a_large_file_is_fetched_from_where_the_hub_says_and_without_the_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(Hub(trouble=status(200, body=INDEX_TEXT))) as store:
        linked = {"X-Linked-Etag": '"e"', "X-Linked-Size": str(len(INDEX_TEXT)), "X-Repo-Commit": COMMIT}
        elsewhere = store.url.replace("127.0.0.1", "localhost")  # another host, by its name
        location = ("Location", f"{elsewhere}/blob?signed=1")
        hub.trouble = on(INDEX, status(302, location, *linked.items()))
        index = read(f"hf:{MODEL}").index
        assert [(asked.method, asked.path, asked.token) for asked in store.asked] == [("GET", "/blob?signed=1", None)]
    assert index is not None
    assert index.data == json.loads(INDEX_TEXT)


def test_plain_http_is_used_where_the_hub_offers_another_protocol(hub: Hub) -> None:
    offer = {"X-Xet-Hash": "f" * 64, "X-Xet-Refresh-Route": f"{hub.url}/api/models/{MODEL}/xet-read-token/{COMMIT}"}
    found = {"ETag": '"e"', "X-Repo-Commit": COMMIT}
    hub.trouble = on(INDEX, status(200, *offer.items(), *found.items(), body=INDEX_TEXT))
    assert read(f"hf:{MODEL}").index is not None
    assert {asked.path.rpartition("/")[2] for asked in hub.asked} == set(FILES)


def test_offline_the_cache_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(hub)
    online = read(f"hf:{MODEL}")
    hub.asked.clear()
    offline(monkeypatch)
    found = read(f"hf:{MODEL}")
    assert hub.asked == []
    assert found.where == online.where
    assert [document and document.data for document in (found.config, found.quant, found.index)] == [
        document and document.data for document in (online.config, online.quant, online.index)
    ]


def test_offline_the_cache_knows_that_a_file_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    read(f"hf:{MODEL}")
    offline(monkeypatch)
    assert read(f"hf:{MODEL}").quant is None  # a warning would be an error here


def test_offline_it_is_said_when_the_cache_does_not_know_of_a_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(MODEL, CONFIG)  # as other tools do: no other file is asked for
    offline(monkeypatch)
    with pytest.warns(UserWarning, match=rf"hf:{MODEL}: the cache does not say whether there is {QUANT} or {INDEX}"):
        assert read(f"hf:{MODEL}").quant is None


def test_offline_without_cache_is_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    error = refusal(f"hf:{MODEL}")
    assert error.message == f"HF_HUB_OFFLINE is set, and config.json of {MODEL} is not in the cache"
    assert error.hint == f"unset HF_HUB_OFFLINE to ask {hub.url}"


@pytest.mark.parametrize("trouble", ["gone", "overloaded", "silent"])
def test_a_hub_that_can_not_be_asked_is_answered_from_the_cache_with_a_warning(
    trouble: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(f"hf:{MODEL}")
    if trouble == "gone":
        settle(monkeypatch, "http://127.0.0.1:9", Path("cache").absolute())
    hub.trouble = status(503) if trouble == "overloaded" else slow
    with pytest.warns(UserWarning, match=f"hf:{MODEL}: the hub .*; the cache has commit aaaaaaaaaaaa"):
        assert read(f"hf:{MODEL}").config.data["hidden_size"] == 8


def slow(handler: Handler) -> bool:
    """A server that needs longer than anybody waits here."""
    time.sleep(2)
    return True


def status(number: int, *headers: tuple[str, str], body: bytes = b"") -> Callable[[Handler], bool]:
    """A server that answers everything with a status."""

    def answer(handler: Handler) -> bool:
        handler.answer(number, dict(headers), body)
        return True

    return answer


@pytest.mark.parametrize(
    ("argument", "message", "hint"),
    [
        ("moon/other", "{url} has no model moon/other, or shows it to some only", "check the name; a private"),
        (f"{MODEL}@v9", f"{MODEL} has no revision v9", "give a branch, a tag or the whole hash of a commit"),
        ("moon/gguf", "moon/gguf has no config.json", "a repository of converted weights"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(argument: str, message: str, hint: str, hub: Hub) -> None:
    hub.files["moon/gguf/weights.gguf"] = b""
    error = refusal(f"hf:{argument}")
    assert error.message == message.format(url=hub.url)
    assert (error.hint or "").startswith(hint)
    assert error.source == f"hf:{argument}"
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("trouble", "message", "hint"),
    [
        (
            status(403, ("X-Error-Code", "GatedRepo")),
            "is gated: its owner decides who may read it",
            "then set HF_TOKEN",
        ),
        (
            status(401, ("X-Error-Code", "GatedRepo")),
            "is gated: its owner decides who may read it",
            "then set HF_TOKEN",
        ),
        (status(401), "refuses the access token, or wants one", "check HF_TOKEN"),
        (status(403), f"forbids to read {MODEL}", "HF_TOKEN"),
        (status(403, ("X-Error-Message", "Access to this resource is disabled.")), "is disabled at", "another"),
        (status(404), f"has no config.json of {MODEL}", "check the name and the revision"),
        (status(429, ("Retry-After", "100000")), "has had too many requests", "wait some minutes"),
        (status(500), "has trouble of its own: it answers 500", "try again later"),
        (status(503, ("Retry-After", "100000")), "has trouble of its own: it answers 503", "try again later"),
        (status(400), "does not answer as the hub does", "check HF_ENDPOINT"),
        (status(200, body=b"<html>hello</html>"), "it names no commit or no ETag", "check HF_ENDPOINT"),
        (status(200, ("X-Repo-Commit", COMMIT)), "it names no commit or no ETag", "check HF_ENDPOINT"),
        (status(200, ("X-Repo-Commit", "../../x"), ("ETag", "e")), "does not answer as the hub does", "HF_ENDPOINT"),
        (status(302, ("Location", "?again")), "does not answer as the hub does", "check HF_ENDPOINT"),
        (lambda handler: bool(handler.wfile.write(b"\x16\x03\x01 no HTTP\r\n\r\n")), "does not answer as the hub", ""),
        (slow, "does not answer in time", "HF_HUB_ETAG_TIMEOUT"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_every_trouble_is_one_sentence_and_a_hint_soon(
    trouble: Callable[[Handler], bool], message: str, hint: str, hub: Hub
) -> None:
    hub.trouble = trouble
    start = time.monotonic()
    error = refusal(f"hf:{MODEL}")
    assert time.monotonic() - start < 3
    assert message in error.message
    assert hint in (error.hint or "")
    assert "\n" not in error.message


def test_a_server_that_never_finishes_is_left(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", 2)
    hub.trouble = drip
    start = time.monotonic()
    assert "does not answer in time" in refusal(f"hf:{MODEL}").message
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 can't be reached: Connection refused"),
        ("http://me:secret@127.0.0.1:9", "http://127.0.0.1:9 can't be reached: Connection refused"),
        ("nonsense", "nonsense does not answer as the hub does: "),
    ],
)
def test_an_address_where_no_hub_is(url: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch, url, here / "cache")
    assert refusal(f"hf:{MODEL}").message.startswith(message)


def on(name: str, trouble: Callable[[Handler], bool], method: str = "") -> Callable[[Handler], bool]:
    """Trouble with one file, and perhaps one method, only."""
    return lambda handler: handler.path.endswith(name) and handler.command.startswith(method) and trouble(handler)


@pytest.mark.parametrize("name", [QUANT, INDEX])
def test_trouble_with_a_file_that_may_be_missing_is_an_error_and_not_its_absence(name: str, hub: Hub) -> None:
    everything(hub)
    hub.trouble = on(name, status(503))
    assert "it answers 503" in refusal(f"hf:{MODEL}").message


def test_a_file_is_not_fetched_that_says_to_be_too_large(hub: Hub) -> None:
    size = str(FILES[CONFIG].most + 1)
    hub.trouble = on(CONFIG, status(200, ("ETag", '"e"'), ("X-Repo-Commit", COMMIT), ("Content-Length", size)), "HEAD")
    error = refusal(f"hf:{MODEL}")
    assert error.message == "the file is larger than 16 MiB"
    assert error.source == f"hf:{MODEL}/config.json"
    assert [asked.method for asked in hub.asked] == ["HEAD"]


def test_a_download_that_grows_too_large_is_stopped(hub: Hub, here: Path) -> None:
    def endless(handler: Handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" " * (1 << 20))
        return True

    hub.trouble = on(CONFIG, endless, "GET")
    assert refusal(f"hf:{MODEL}").message == "the file is larger than 16 MiB"
    assert sum(path.stat().st_size for path in here.rglob("*") if path.is_file()) < 1 << 20


def test_a_download_that_ends_too_early_is_refused(hub: Hub) -> None:
    hub.trouble = on(CONFIG, status(200, body=b'{"hidden_size": 8}'), "GET")  # HEAD promised more
    assert "does not answer as the hub does: Consistency check failed" in refusal(f"hf:{MODEL}").message


def test_a_config_of_the_hub_that_is_no_json_has_its_place(hub: Hub) -> None:
    hub.files[f"{MODEL}/{CONFIG}"] = b'{\n  "a": 1,\n}'
    error = refusal(f"hf:{MODEL}")
    assert (error.source, error.line, error.column) == (f"hf:{MODEL}/config.json", 2, 9)


def test_a_cache_that_can_not_be_written_is_named(hub: Hub, here: Path) -> None:
    (here / "cache").write_text("a file")
    error = refusal(f"hf:{MODEL}")
    assert error.message == "the cache can't be used: Not a directory"
    assert "HF_HOME" in (error.hint or "")


@pytest.mark.parametrize(
    "argument",
    [
        *("hf:", "hf:a/b/c", "hf:a b/c", "hf:../../etc", "hf:/b", "hf:é/b", "hf:a--b/c", "hf:a/b.git", "hf:a/b\n"),
        *("hf:a/b@", "hf:a/b@../../x", "hf:a/b@x/../y", "hf:a/b@-x", "hf:a/b@x.lock", "hf:a/b@x//y"),
        *("hf:" + "a" * 5000, "hf:a/b@" + "c" * 5000),
    ],
)
def test_what_can_be_no_name_asks_nobody(argument: str, hub: Hub) -> None:
    error = refusal(argument)
    assert "hf:ORG/NAME" in (error.hint or "")
    assert len(error.render()) < 400
    assert hub.asked == []


def test_settings_of_huggingface_hub_are_as_they_were(hub: Hub) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    before = (constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET, logging.get_verbosity())
    filters = list(warnings.filters)
    read(f"hf:{MODEL}")
    refusal("hf:moon/other")
    assert (constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET, logging.get_verbosity()) == before
    assert list(warnings.filters) == filters


# ------------------------------------------------------------------------- a process, with its environment


def test_the_environment_is_honoured_and_nothing_is_printed(here: Path) -> None:
    with serving(Hub({f"{MODEL}/{CONFIG}": CONFIG_TEXT})) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(here / "home"), "HF_TOKEN": "hf_x"}
        ran = in_a_process(f"hf:{MODEL}", env)
        assert (ran.stderr, json.loads(ran.stdout)["hidden_size"]) == ("", 8)
        assert {asked.path.rpartition("/")[2] for asked in hub.asked} == set(FILES)  # no telemetry either
        assert {asked.token for asked in hub.asked} == {"Bearer hf_x"}
        assert (here / "home" / "hub" / "models--moon--Tiny-1.5").is_dir()
        hub.asked.clear()
        ran = in_a_process(f"hf:{MODEL}", {**env, "HF_HUB_OFFLINE": "1"})
        assert (ran.stderr, json.loads(ran.stdout)["hidden_size"]) == ("", 8)
        assert hub.asked == []


def test_a_process_that_gave_up_on_a_server_ends(here: Path) -> None:
    with serving(Hub(trouble=drip)) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(here), "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        start = time.monotonic()
        ran = in_a_process(f"hf:{MODEL}", env, "import archcalc.hf.hub; archcalc.hf.hub.PATIENCE = 2")
        assert time.monotonic() - start < 10
    assert ran.stdout == ""
    first, hint = ran.stderr.splitlines()
    assert first == f"hf:{MODEL}: error: {hub.url} does not answer in time"
    assert hint.startswith("hint: ")


def test_without_huggingface_hub_the_extra_is_named(here: Path) -> None:
    ran = in_a_process(f"hf:{MODEL}", {}, "import sys; sys.modules['huggingface_hub'] = None")
    assert ran.stderr.splitlines() == [
        f"hf:{MODEL}: error: reading from the hub needs huggingface_hub",
        "hint: pip install 'archcalc[hub]'",
    ]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("HF_HUB_ETAG_TIMEOUT", "soon", "invalid literal for int()"), ("HF_ENDPOINT", "http://[", "Invalid IPv6 URL")],
)
def test_a_setting_that_huggingface_hub_can_not_read_is_one_error(name: str, value: str, says: str, here: Path) -> None:
    ran = in_a_process(f"hf:{MODEL}", {name: value})
    assert len(ran.stderr.splitlines()) == 2
    assert f"huggingface_hub can't be imported: {says}" in ran.stderr


def test_nothing_on_this_machine_loads_huggingface_hub(folder: Path) -> None:
    after = "import sys; import atexit; atexit.register(lambda: print('huggingface_hub' in sys.modules))"
    ran = in_a_process("Tiny-1.5", {}, after)
    assert ran.stdout.splitlines()[-1] == "False"
