"""Records become documents, or are left out for a named reason."""

import json

import pytest

from lmindexer_jax.data.documents import CorpusConfig, Document, OnBad, read_documents, template_fields
from lmindexer_jax.data.records import Dropped, Reason
from lmindexer_jax.errors import UserError


def write(tmp_path, *records):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(tmp_path, *records, **settings):
    return list(read_documents(CorpusConfig(path=write(tmp_path, *records), **settings)))


def test_template_joins_fields_lists_and_numbers(tmp_path):
    found = read(
        tmp_path,
        {"id": 7, "title": " Red nail polish ", "brand": None, "price": 3.5, "tags": ["a", "", ["b", 1]]},
        {"id": "x", "title": "", "tags": []},
        {"id": "y", "brand": "{price}"},
        template="{title} {brand} ({price}) {tags}",
    )
    assert found[0] == Document("7", "Red nail polish  (3.5) a, b, 1")
    assert found[1].reason == Reason.EMPTY_TEXT  # what the template itself holds is not a text
    assert found[2].text == "{price} ()"


def test_category_paths(tmp_path):
    paths = [["a", " b "], "a > b>c", None, "", [], "single"]
    found = read(tmp_path, *({"id": n, "text": "t", "path": path} for n, path in enumerate(paths)))
    assert [item.path for item in found] == [("a", "b"), ("a", "b", "c"), (), (), (), ("single",)]


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"text": "t"}, Reason.MISSING_ID, "id_field"),
        ({"id": "", "text": "t"}, Reason.MISSING_ID, "id_field"),
        ({"id": 1.5, "text": "t"}, Reason.WRONG_TYPE, "float"),
        ({"id": True, "text": "t"}, Reason.WRONG_TYPE, "bool"),
        ({"id": "a", "text": {"en": "t"}}, Reason.WRONG_TYPE, "dict"),
        ({"id": "a", "text": [[["t"]]]}, Reason.WRONG_TYPE, "list"),
        ({"id": "a", "text": " \n"}, Reason.EMPTY_TEXT, "text"),
        ({"id": "a", "text": "t", "path": ["x", ""]}, Reason.BAD_PATH, "''"),
        ({"id": "a", "text": "t", "path": ["x", 3]}, Reason.BAD_PATH, "3"),
        ({"id": "a", "text": "t", "path": "x >> y"}, Reason.BAD_PATH, "''"),
        ({"id": "a", "text": "t", "path": {"x": 1}}, Reason.BAD_PATH, "dict"),
        ({"id": "first", "text": "t"}, Reason.DUPLICATE_ID, "first"),
        ({"id": "a", "text": "\ud800"}, Reason.BAD_UTF8, "Unicode"),
    ],
)
def test_unfit_records_are_dropped_or_refused(tmp_path, record, reason, detail):
    good = {"id": "first", "text": "t"}
    dropped = read(tmp_path, good, record)[1]
    assert isinstance(dropped, Dropped) and dropped.reason == reason and detail in dropped.detail
    with pytest.raises(UserError, match=rf"x\.jsonl:2: {reason} ") as error:
        read(tmp_path, good, record, on_bad=OnBad.FAIL)
    assert reason.remedy in str(error.value) and "\n" not in str(error.value)


def test_a_dropped_record_does_not_take_its_id(tmp_path):
    found = read(tmp_path, {"id": "a", "text": ""}, {"id": "a", "text": "t"}, {"id": "a", "text": "u"})
    assert [getattr(item, "reason", "kept") for item in found] == [Reason.EMPTY_TEXT, "kept", Reason.DUPLICATE_ID]


def test_records_may_be_numbered(tmp_path):
    found = read(tmp_path, {"id": "same", "text": "t"}, {"text": ""}, {"id": "same", "text": "u"}, id_field="")
    assert [getattr(item, "id", "-") for item in found] == ["1", "-", "3"]


def test_max_documents_counts_documents_and_stops(tmp_path):
    records = [{"id": str(n), "text": "t" * (n % 2)} for n in range(10)]
    found = read(tmp_path, *records, max_documents=3)
    assert [item.id for item in found if isinstance(item, Document)] == ["1", "3", "5"]
    assert len(found) == 6


def test_nan_is_a_missing_value(tmp_path):
    nan = float("nan")
    found = read(tmp_path, {"id": "a", "text": nan}, {"id": nan, "text": "t"}, {"id": "b", "text": "t", "price": nan, "path": nan}, template="{text} {price}")
    assert [item.reason for item in found[:2]] == [Reason.EMPTY_TEXT, Reason.MISSING_ID]
    assert found[2] == Document("b", "t")


def test_a_negative_number_of_documents_is_refused(tmp_path):
    with pytest.raises(UserError, match="max_documents=-5"):
        read(tmp_path, {"id": "a", "text": "t"}, max_documents=-5)


@pytest.mark.parametrize("settings", [{"template": "{text} {titel}"}, {"path_field": "titel"}, {"template": "{text} {titel}", "max_documents": 1}])
def test_a_field_that_no_record_has_is_a_slip(tmp_path, settings):
    with pytest.raises(UserError, match="'titel'.*'id', 'text'"):
        read(tmp_path, {"id": "a", "text": "t"}, **settings)


@pytest.mark.parametrize("template", ["", "plain", "{}", "{0}", "{a", "a}", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}"])
def test_templates_name_plain_fields(template):
    with pytest.raises(UserError, match="corpus.template"):
        template_fields(template)


def test_template_fields_in_order():
    assert template_fields("{title}: {my field} {{literal}}") == ("title", "my field")


@pytest.mark.parametrize("settings", [{}, {"path": "x", "name": "y"}])
def test_exactly_one_source(settings):
    with pytest.raises(UserError, match="exactly one of corpus.path"):
        list(read_documents(CorpusConfig(**settings)))
