"""How saved storages are found and counted. Sizes: a float takes 4 bytes, so x below takes 4*5*4 = 80."""

import pytest
import torch

from archcalc.reference.storages import SavedTensors, saved_bytes, saved_storages

pytestmark = pytest.mark.twin

META = torch.device("meta")


def leaf(*shape, device=META):
    return torch.randn(shape, device=device, requires_grad=True)


def test_one_storage_saved_by_two_operations_counts_once():
    x = leaf(4, 5)
    assert saved_bytes(lambda: x.sin() + x.cos()) == 80


def test_two_meta_tensors_count_twice_although_their_data_pointers_are_both_zero():
    x, y = leaf(4, 5), leaf(4, 5)
    assert x.data_ptr() == y.data_ptr() == 0
    assert saved_bytes(lambda: x * y) == 160


def test_a_saved_view_keeps_its_whole_storage():
    x = leaf(4, 5)
    assert saved_bytes(lambda: x[:, :1].sin()) == 80


def test_an_addition_keeps_nothing():
    x, y = leaf(4, 5), leaf(4, 5)
    assert saved_bytes(lambda: x + y) == 0


def test_a_linear_keeps_its_input_and_not_its_weight_which_it_saves_as_a_view():
    x, module = leaf(4, 5), torch.nn.Linear(5, 7, device=META)
    run = lambda: module(x)  # noqa: E731
    assert saved_bytes(run, module.parameters()) == 80
    assert saved_bytes(run) == 80 + 5 * 7 * 4


def test_what_a_dropped_branch_saved_is_not_held():
    x = leaf(4, 5)

    def run():
        x.sin()  # nobody uses it: its node dies here
        return x.exp()  # keeps its result

    assert saved_bytes(run) == 80


def test_sizes_are_those_at_the_end_of_forward_not_those_at_the_time_of_saving():
    x = leaf(4, 5)

    def run():
        doubled = x * 2
        out = doubled.sin()
        assert [storage.bytes for storage in saved.storages()] == [80]
        doubled.untyped_storage().resize_(0)
        return out

    with SavedTensors() as saved:
        out = run()
    assert [storage.bytes for storage in saved.storages()] == [0]
    assert out.requires_grad


def test_nothing_is_held_once_the_graph_is_gone():
    x = leaf(4, 5)
    with SavedTensors() as saved:
        out = x.sin()
    assert len(saved.storages()) == 1
    del out
    assert saved.storages() == []


def test_storages_come_in_the_order_of_their_first_save_with_shape_and_type():
    x, y = leaf(4, 5), leaf(2, 3)
    found = saved_storages(lambda: x.sin().sum() + y.bfloat16().cos().sum())
    assert [(each.shape, each.dtype, each.bytes) for each in found] == [
        ((4, 5), "float32", 80),
        ((2, 3), "bfloat16", 12),  # 2 * 3 * 2
    ]


def test_counting_leaves_gradients_as_they_are():
    x = leaf(4, 5, device="cpu")
    with SavedTensors():
        (x.sin() * x.exp()).sum().backward()
    assert torch.equal(x.grad, (x.cos() * x.exp() + x.sin() * x.exp()).detach())
