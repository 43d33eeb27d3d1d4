"""Results are kept for the same arguments, and for no others."""

from servingplan.model.remembered import Kept, for_same


def counted(most):
    calls = []

    @for_same(most=most)
    def length(items, *, extra=0):
        calls.append(items)
        return len(items) + extra

    return length, calls


def test_the_same_object_is_asked_about_once():
    length, calls = counted(8)
    items = [1, 2]
    assert [length(items), length(items)] == [2, 2]
    assert len(calls) == 1


def test_another_object_and_another_option_are_asked_about_anew():
    length, calls = counted(8)
    items, option = [1, 2], 1000
    assert [length(items), length([1, 2]), length(items, extra=option)] == [2, 2, 1002]
    assert len(calls) == 3


def test_no_more_is_kept_than_allowed():
    length, calls = counted(2)
    items = [[0] * number for number in range(4)]
    assert [length(item) for item in (*items, *items)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len(calls) == 8


def test_what_raised_is_asked_again():
    attempts = []

    @for_same(most=2)
    def fails(item):
        attempts.append(item)
        raise ValueError("no")

    for _ in range(2):
        try:
            fails(1)
        except ValueError:
            continue
    assert attempts == [1, 1]


def test_what_was_put_first_makes_room_and_what_is_put_again_stays():
    kept = Kept(2)
    for key in ("a", "b", "a", "c"):
        kept.put(key, key.upper())
    assert [kept.get(key) for key in "abc"] == ["A", None, "C"]
