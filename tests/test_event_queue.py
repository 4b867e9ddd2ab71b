"""controller.event_queue: who says much, or what takes long, waits for himself."""

import asyncio

import pytest

from controller.event_queue import EVENT_S, OURS, EventQueue


async def test_a_turn_takes_all_of_ours_and_the_same_of_each_neighbour_in_order() -> None:
    queue: EventQueue[str] = EventQueue(100)
    for n in range(50):
        for lane, every in (("a", 1), ("b", 5), (OURS, 10)):
            if n % every == 0:
                await queue.put(lane, f"{lane}{n}")
    turn = await queue.take(256, 12 * EVENT_S)
    assert turn[:5] == ["0", "10", "20", "30", "40"]
    assert turn[5:] == [f"a{n}" for n in range(6)] + [f"b{n}" for n in range(0, 30, 5)]
    assert await queue.take(4, 20 * EVENT_S) == [f"a{n}" for n in range(6, 10)] + [f"b{n}" for n in range(30, 50, 5)]
    assert await queue.take(256, 100 * EVENT_S) == [f"a{n}" for n in range(10, 50)]


async def test_who_says_what_takes_long_has_no_more_time_than_the_others() -> None:
    queue: EventQueue[str] = EventQueue(10_000)
    costs_s = {"cheap": 0.001, "dear": 0.4, "modest": 0.005}
    used_s = dict.fromkeys(costs_s, 0.0)
    for lane in costs_s:
        for _ in range(10_000):
            queue.put_nowait(lane, lane)
    for _ in range(1_000):
        turn = await queue.take(256, 0.01)
        assert turn
        for lane, cost_s in costs_s.items():
            if count := turn.count(lane):
                queue.took(lane, count * cost_s, count)
                used_s[lane] += count * cost_s
    assert max(used_s.values()) - min(used_s.values()) <= 1.0, used_s
    assert used_s["cheap"] > 2.0


async def test_who_comes_anew_has_saved_nothing_up_and_is_not_last_either() -> None:
    queue: EventQueue[str] = EventQueue(1_000)
    queue.put_nowait("b", "b")
    assert await queue.take(1, 0.001) == ["b"]
    for _ in range(500):
        queue.put_nowait("a", "a")
    for _ in range(50):
        turn = await queue.take(256, 0.001)
        queue.took("a", len(turn) * 0.1, len(turn))
    for _ in range(100):
        queue.put_nowait("b", "b")
    said = []
    for _ in range(20):
        turn = await queue.take(1, 0.001)
        said += turn
        for lane in {*turn}:
            queue.took(lane, 0.1, 1)
    assert "b" in said[:2] and 8 <= said.count("b") <= 12, said


async def test_a_full_lane_holds_up_nobody_else_and_goes_on_when_there_is_room() -> None:
    queue: EventQueue[int] = EventQueue(3)
    talking = asyncio.ensure_future(_say(queue, "a", 10))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(queue) == 3 and not talking.done()
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait("a", 1)
    queue.put_nowait("b", 100)
    queue.put_nowait(OURS, 200)
    seen: list[int] = []
    joining = asyncio.ensure_future(queue.join())
    while not talking.done() or len(queue):
        turn = await queue.take(1, 2 * EVENT_S)
        seen += turn
        await asyncio.sleep(0)
        assert not joining.done()
        queue.done(len(turn))
    await joining
    assert seen[0] == 200 and 100 in seen[:3]
    assert [event for event in seen if event < 100] == [*range(10)]


async def _say(queue: EventQueue[int], lane: str, count: int) -> None:
    for n in range(count):
        await queue.put(lane, n)
