"""Token rows of the backbone, from the workload: new rows, key rows, and the pairs that attention scores."""

from __future__ import annotations

from collections import Counter

from archcalc.tape import ALL, Dim, Dims, Number, Span, Tape, Term, value


def sequences(tape: Tape) -> Dim:
    """How many there are."""
    how = tape.workload
    return Dim("sequences" if how.lengths else "batch", how.sequences)


def new_rows(tape: Tape) -> Dims:
    """[batch, seq]: the new tokens, text and vision together; packed sequences stand in one row, [1, tokens]."""
    how = tape.workload
    if not how.lengths:
        return (Dim("batch", how.batch), Dim("seq", how.seq + tape.vision_tokens, "seq"))
    return (Dim("batch", 1), Dim("tokens", how.text_tokens + how.sequences * tape.vision_tokens, "seq"))


def key_rows(tape: Tape) -> Dims:
    """[batch, keys]: cached tokens and new ones; of packed sequences, each with a cache of its own, [1, keys]."""
    batch, new = new_rows(tape)
    how = tape.workload
    if not how.context:
        return (batch, new)
    cached = Dim("sequences·context", how.sequences * how.context) if how.lengths else Dim("context", how.context)
    return (batch, cached + new)


def pairs(tape: Tape, span: Span = ALL) -> Number:
    """Query-key pairs times FLOPs a multiply-add, for a mixer that looks back over `span`.

    n new tokens on c cached ones score n·(c+n) pairs. Causal masking lets half of the n·n own-block pairs count, so
    their coefficient is 1 instead of 2 and odd lengths stay exact; cached context is never halved. A decoded token
    sees all that there is: nothing is halved. A limit W (a window, the best W) leaves n·min(c+n, W), or, causal,
    k·c + k²/2 + (n-k)·W with k = W-c between 0 and n: the tokens before the limit is reached, then the others. Chunks
    are so many sequences of their own. One entry for r tokens can be seen once its r tokens are there. Of packed
    sequences each is scored on its own.

    Raises:
        AssertionError: a state scores no pairs.
    """
    how = tape.workload
    if not how.lengths:
        return _of_equal(tape, span, *new_rows(tape))
    each = (
        _of_equal(tape, span, Dim("batch", count), Dim("seq", length + tape.vision_tokens))
        for length, count in Counter(how.lengths).items()
    )
    return (Term(1, (Dim("2·pairs", sum(map(value, each))),)),)


def _of_equal(tape: Tape, span: Span, batch: Dim, seq: Dim) -> Number:
    """The same of so many sequences of one length."""
    new, cached = seq.size, tape.workload.context
    halved = tape.workload.attention == "causal" and tape.workload.phase != "decode"
    if span.kind == "sequence":
        raise AssertionError("a state of the whole sequence scores no pairs")
    if span.kind == "chunk":
        return _in_chunks(batch, seq, cached, span, halved)
    if span.kind == "stride":
        return _strided(batch, seq, cached, span, halved)
    if span.kind == "all" or cached + new <= span.size:
        own = Term(1 if halved else 2, (batch, seq, seq))
        return (own, Term(2, (batch, seq, Dim("context", cached)))) if cached else (own,)
    limit = Dim(span.name, span.size)
    growing = max(0, span.size - cached) if halved else 0
    if not growing:
        return (Term(2, (batch, seq, limit)),)
    first = Dim(f"({span.name}-context)" if cached else span.name, growing)
    before = (Term(2, (batch, first, Dim("context", cached))),) if cached else ()
    return (*before, Term(1, (batch, first, first)), Term(2, (batch, Dim(f"(seq-{first.name})", new - growing), limit)))


def _in_chunks(batch: Dim, seq: Dim, cached: int, span: Span, halved: bool) -> Number:
    """Pairs inside chunks of `span.size` tokens, counted from the start of the sequence."""
    own = 1 if halved else 2
    begun = cached % span.size
    first = min(seq.size, span.size - begun)
    whole, last = divmod(seq.size - first, span.size)
    chunk = Dim(span.name, span.size)
    terms = [Term(own, (batch, Dim("first_piece", first), Dim("first_piece", first)))]
    if begun:
        terms.append(Term(2, (batch, Dim("first_piece", first), Dim(f"(context mod {span.name})", begun))))
    if whole:
        terms.append(Term(own, (batch, Dim("chunks", whole), chunk, chunk)))
    if last:
        terms.append(Term(own, (batch, Dim("last_piece", last), Dim("last_piece", last))))
    return tuple(terms)


def _strided(batch: Dim, seq: Dim, cached: int, span: Span, halved: bool) -> Number:
    """Pairs with one entry for every `span.size` tokens; the entries that new tokens complete are half seen."""
    held, entries = cached // span.size, (cached + seq.size) // span.size
    if not halved:
        return (Term(2, (batch, seq, Dim(f"((context+seq)/{span.name})", entries))),)
    made = Term(1, (batch, seq, Dim(f"(seq/{span.name})", entries - held)))
    return (made, Term(2, (batch, seq, Dim(f"(context/{span.name})", held)))) if held else (made,)
