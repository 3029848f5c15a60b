"""Histories: read or refused by line, and split so that no target is trained on."""

import gzip

import numpy as np
import pytest

from lmindexer_jax.data.interactions import leave_one_out, read_interactions
from lmindexer_jax.errors import UserError

IDS = ["a", "b", "c", "d"]


@pytest.mark.parametrize("lines", ["u1\ta b\n\nu2\tb d a\n", "u1\t1 2\n\nu2\t2 4 1\n"], ids=["ids", "numbers"])
def test_items_by_id_or_by_number(tmp_path, lines):
    path = tmp_path / "s.tsv"
    path.write_text(lines)
    items, offsets = read_interactions(path, IDS)
    assert items.tolist() == [0, 1, 1, 3, 0] and offsets.tolist() == [0, 2, 5]
    zipped = tmp_path / "s.tsv.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert read_interactions(zipped, IDS)[0].tolist() == items.tolist()


def test_where_ids_are_whole_numbers_a_missing_one_is_no_row(tmp_path):
    (tmp_path / "s.tsv").write_text("u\t10 20 3\n")
    with pytest.raises(UserError, match="s.tsv:1: item '3' of user 'u' is not in the corpus"):
        read_interactions(tmp_path / "s.tsv", ["10", "20", "40"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"u2 a b", "s.tsv:2: no tab between user and items"),
        (b"u2\ta z", "s.tsv:2: item 'z' of user 'u2' is not in the corpus"),
        (b"u2\ta 2", "s.tsv:2: item '2' of user 'u2' is not in the corpus"),
        (b"u1\ta", "s.tsv:2: user 'u1' stands at .*s.tsv:1 already"),
        (b"u2\t", "s.tsv:2: user 'u2' has no items"),
        (b"u2\t\xff", "s.tsv:2: bad UTF-8"),
    ],
)
def test_an_unfit_line_is_named(tmp_path, line, message):
    (tmp_path / "s.tsv").write_bytes(b"u1\ta b\n" + line + b"\n")
    with pytest.raises(UserError, match=message):
        read_interactions(tmp_path / "s.tsv", IDS)


def test_ids_among_row_numbers_are_named(tmp_path):
    (tmp_path / "s.tsv").write_text("u1\t1 2\nu2\t3 a\n")
    with pytest.raises(UserError, match="s.tsv:2: item 'a' of user 'u2' is no row number, as the first item is"):
        read_interactions(tmp_path / "s.tsv", IDS)


def test_users_of_one_item_alone_say_nothing(tmp_path):
    (tmp_path / "s.tsv").write_text("u1\ta\nu2\tb\n")
    with pytest.raises(UserError, match="no user has two items"):
        read_interactions(tmp_path / "s.tsv", IDS)


def test_leave_one_out():
    items = np.array([1, 2, 3, 4, 9, 9, 5, 6, 5])
    splits = leave_one_out(items, np.array([0, 4, 6, 9]))
    assert list(splits) == ["train", "validation", "test"]
    for split, wanted in {"train": [[1, 2], [5]], "validation": [[1, 2, 3], [5, 6]], "test": [[1, 2, 3, 4], [5, 6, 5]]}.items():
        own = splits[split]
        assert [part.tolist() for part in np.split(own.items, own.offsets[1:-1])] == wanted, split
        assert own.targets.tolist() == [part[-1] for part in wanted]
        histories, offsets = own.histories
        assert [part.tolist() for part in np.split(histories, offsets[1:-1])] == [part[:-1] for part in wanted]
        assert own.users.tolist() == [0, 2] and len(own) == 2
    assert splits["test"].repeats.tolist() == [False, True] and not splits["validation"].repeats.any()
    assert splits["train"].counts(7).tolist() == [0, 1, 1, 0, 0, 1, 0]  # no item of the two users that is held out
    with pytest.raises(UserError, match="no user has 3 items"):
        leave_one_out(items, np.array([0, 2, 4]))
