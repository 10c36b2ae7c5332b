"""What waits is answered together, in order, by one thread; a fault harms only its own; what is too much is turned away."""

import asyncio
import threading

import pytest

from reactvl.manifest import ReactvlError
from reactvl.serve.asking import Answer, Ask, Counted, Term
from reactvl.serve.batching import COUNTS, MOST, Batcher, Broken, Busy


class Engine:
    """Answers a text with itself, once it is let go on; `batches` and `counts` are what it was given."""

    def __init__(self):
        self.batches: list[list[str]] = []
        self.counts: list[str] = []
        self.order: list[str] = []
        self.threads: set[int] = set()
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()
        self.go_on.set()

    def answer(self, asks):
        self.threads.add(threading.get_ident())
        words = [ask.terms[0].text for ask in asks]
        self.batches.append(words)
        self.order.append("search")
        self.entered.release()
        self.go_on.wait()
        if "fault" in words:
            raise ZeroDivisionError
        return [ReactvlError("refused") if word == "refused" else answer_of(word) for word in words]

    def count(self, ask, thresholds):
        self.threads.add(threading.get_ident())
        self.counts.append(ask.terms[0].text)
        self.order.append("count")
        self.entered.release()
        self.go_on.wait()
        if ask.terms[0].text == "refused":
            raise ReactvlError("refused")
        return Counted(1, [0.0, 1.0], [1], [], True)


def answer_of(word: str) -> Answer:
    return Answer([], [], True, None, 0, [word], {})


def ask(word: str) -> Ask:
    return Ask((Term(text=word),))


def run(what, **options):
    """Run `what(engine, batcher)` with a batcher over an `Engine`."""
    engine = Engine()

    async def main():
        batcher = Batcher(engine, **options)
        try:
            return await asyncio.wait_for(what(engine, batcher), 20)
        finally:
            engine.go_on.set()
            batcher.close()

    return asyncio.run(main())


async def entered(engine: Engine) -> None:
    """Until the engine has begun with something."""
    await asyncio.to_thread(engine.entered.acquire)


def test_what_waits_while_one_is_answered_goes_together_in_order_and_in_one_thread():
    async def what(engine, batcher):
        engine.go_on.clear()
        first = asyncio.ensure_future(batcher.answer([ask("0")]))
        await entered(engine)
        rest = [asyncio.ensure_future(batcher.answer([ask(str(number))])) for number in range(1, 151)]
        await asyncio.sleep(0.05)
        assert len(batcher) == 150
        engine.go_on.set()
        answers = [await work for work in (first, *rest)]
        assert [answer.notes for [answer] in answers] == [[str(number)] for number in range(151)]
        assert [len(batch) for batch in engine.batches] == [1, MOST, MOST, 150 - 2 * MOST]
        assert engine.batches[1] == [str(number) for number in range(1, 1 + MOST)]
        assert len(engine.threads) == 1

    run(what)


def test_a_refused_search_and_one_that_breaks_the_engine_harm_no_other(capsys):
    async def what(engine, batcher):
        engine.go_on.clear()
        first = asyncio.ensure_future(batcher.answer([ask("0")]))
        await entered(engine)
        words = ["a", "fault", "b", "refused", "c"]
        rest = [asyncio.ensure_future(batcher.answer([ask(word)])) for word in words]
        await asyncio.sleep(0.05)
        engine.go_on.set()
        await first
        a, fault, b, refused, c = [(await work)[0] for work in rest]
        assert [a.notes, b.notes, c.notes] == [["a"], ["b"], ["c"]]
        assert isinstance(fault, Broken)
        assert isinstance(refused, ReactvlError)
        [again] = await batcher.answer([ask("later")])
        assert again.notes == ["later"]

    run(what)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_what_is_too_much_is_turned_away_at_once_and_the_rest_is_answered():
    async def what(engine, batcher):
        engine.go_on.clear()
        first = asyncio.ensure_future(batcher.answer([ask("0")]))
        await entered(engine)
        waiting = [asyncio.ensure_future(batcher.answer([ask(str(number))])) for number in range(10)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await batcher.answer([ask("one too many")])
        engine.go_on.set()
        await asyncio.gather(first, *waiting)
        answers = await batcher.answer([ask(str(number)) for number in range(25)])  # alone, more than may wait
        assert [answer.notes for answer in answers] == [[str(number)] for number in range(25)]

    run(what, waiting=10)


def test_counts_and_searches_take_turns():
    async def what(engine, batcher):
        engine.go_on.clear()
        first = asyncio.ensure_future(batcher.answer([ask("0")]))
        await entered(engine)
        counts = [asyncio.ensure_future(batcher.count(ask(str(number)), ())) for number in range(COUNTS)]
        searches = [asyncio.ensure_future(batcher.answer([ask("x")])) for _ in range(MOST + 1)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await batcher.count(ask("one too many"), ())
        engine.go_on.set()
        await asyncio.gather(first, *counts, *searches)
        assert engine.order[:5] == ["search", "search", "count", "search", "count"]
        assert engine.order.count("count") == COUNTS
        assert isinstance(await batcher.count(ask("refused"), ()), ReactvlError)

    run(what)


def test_what_nobody_waits_for_any_more_is_not_begun():
    async def what(engine, batcher):
        engine.go_on.clear()
        first = asyncio.ensure_future(batcher.answer([ask("0")]))
        await entered(engine)
        counted, searched = (
            asyncio.ensure_future(batcher.count(ask("left"), ())),
            asyncio.ensure_future(batcher.answer([ask("left")])),
        )
        await asyncio.sleep(0.05)
        for work in (counted, searched):
            work.cancel()
        await asyncio.sleep(0)
        engine.go_on.set()
        await first
        await batcher.answer([ask("later")])
        assert engine.counts == []
        assert ["left"] not in engine.batches

    run(what)


def test_closing_turns_away_what_waits_and_says_whether_the_work_ended():
    async def what(engine, batcher):
        engine.go_on.clear()
        first = asyncio.ensure_future(batcher.answer([ask("0")]))
        await entered(engine)
        waiting = asyncio.ensure_future(batcher.answer([ask("1")]))
        await asyncio.sleep(0.05)
        assert batcher.close(timeout=0.1) is False
        with pytest.raises(Busy):
            await waiting
        engine.go_on.set()
        assert (await first)[0].notes == ["0"]
        assert batcher.close() is True
        with pytest.raises(Busy):
            await batcher.answer([ask("2")])

    run(what)
