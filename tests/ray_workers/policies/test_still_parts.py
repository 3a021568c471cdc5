from ray_workers.policies.still_parts import StillParts

SIZES = {"a": 10, "b": 10, "c": 3, "moving": 50}


def parts(**more):
    return StillParts(least_bytes=10, **more)


def test_what_stands_still_is_put_apart_and_stays_as_it_is():
    first = parts().after(SIZES, {"a", "b"})
    assert first.groups == (frozenset("ab"),)
    assert first.after(SIZES, {"a", "b"}) == first


def test_what_is_small_is_not_worth_a_shard():
    assert parts().after(SIZES, {"c"}).groups == ()
    first = parts().after(SIZES, {"a"})
    assert first.after(SIZES, {"a", "c"}) == first


def test_what_stands_still_later_gets_a_group_of_its_own_so_that_the_first_stays():
    first = parts().after(SIZES, {"a"})
    assert first.after(SIZES, {"a", "b"}).groups == (frozenset("a"), frozenset("b"))


def test_what_changes_leaves_for_ever():
    first = parts().after(SIZES, {"a", "b"})
    second = first.after(SIZES, {"a"})
    assert second.groups == (frozenset("a"),)
    assert second.after(SIZES, {"a", "b"}) == second


def test_what_is_found_to_move_leaves_however_still_it_seems():
    first = parts().after(SIZES, {"a", "b"})
    assert first.after(SIZES, {"a", "b"}, moved={"b"}).groups == (frozenset("a"),)


def test_a_group_that_became_small_is_dissolved():
    first = parts().after(SIZES, {"a", "c"})
    assert first.groups == (frozenset("ac"),)
    assert first.after(SIZES, {"c"}).groups == ()


def test_there_are_few_groups():
    sizes = {str(number): 10 for number in range(9)}
    found = parts()
    for number in range(9):
        found = found.after(sizes, {str(n) for n in range(number + 1)})
    assert len(found.groups) == 4


def test_what_is_not_there_any_more_is_in_no_group():
    assert parts().after(SIZES, {"a"}).after({}, set()).groups == ()
