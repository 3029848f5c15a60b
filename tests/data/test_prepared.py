"""Named data sets: found, built without TensorFlow, or refused at once with what to do."""

import shutil
import socket
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from lmindexer_jax.data import prepared
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig, Document, read_documents
from lmindexer_jax.data.records import Dropped, Reason
from lmindexer_jax.errors import UserError


class SmallNews(tfds.core.GeneratorBasedBuilder):
    """A data set as other people make them: bytes, class labels, several versions, no id."""

    VERSION = tfds.core.Version("1.10.0")
    SUPPORTED_VERSIONS = [tfds.core.Version("1.9.0")]

    def _info(self):
        label = tfds.features.ClassLabel(names=["world", "sport"])
        features = tfds.features.FeaturesDict(
            {"title": tfds.features.Text(), "label": label, "tags": tfds.features.Sequence(tfds.features.Text())}
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

    def _generate_examples(self, count):
        for number in range(count):
            title = b"\xff" if number == 2 else f"title {number} é"
            yield number, {"title": title, "label": number % 2 if number < 2 else -1, "tags": ["a", "b"][:number]}


@pytest.fixture
def reachable(monkeypatch):
    """A network that can be reached, as far as one can tell."""

    class Connection:
        def close(self):
            pass

    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: Connection())


@pytest.fixture
def unreachable(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)


def config(tmp_path, **settings):
    base = {"name": "small_news", "id_field": "", "template": "{title} {tags}", "path_field": "label"}
    return CorpusConfig(**(base | {"cache_dir": str(tmp_path)} | settings))


def test_any_tfds_name_is_downloaded_once_and_read(tmp_path, reachable, monkeypatch, capfd):
    items = list(read_documents(config(tmp_path)))
    assert items[:2] == [Document("1", "title 0 é", ("world",)), Document("2", "title 1 é a", ("sport",))]
    assert items[2].reason == Reason.BAD_UTF8 and "small_news/1.10.0/train:3" in items[2].where
    assert capfd.readouterr().out == ""  # TFDS's own banners would break into our terminal
    monkeypatch.setattr(prepared, "_download", lambda *_: pytest.fail("downloaded again"))
    assert len([item for item in read_documents(config(tmp_path, split="test")) if not isinstance(item, Dropped)]) == 1
    assert open_corpus(config(tmp_path)).dropped == {"bad UTF-8": 1}


def test_prepared_folders_are_found_newest_version_first(tmp_path, unreachable, monkeypatch):
    for place in ("home/small_news/1.9.0", "home/small_news/1.10.0", "home/small_news/fine/1.0.0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset_info.json").write_text("{}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    places = {
        "small_news": "small_news/1.10.0",
        "small_news:1.9.0": "small_news/1.9.0",
        "small_news/fine": "small_news/fine/1.0.0",
    }
    for name, place in places.items():
        assert prepared.prepare(name, tmp_path) == tmp_path / "home" / place
    with pytest.raises(UserError, match="not prepared"):
        prepared.prepare("small_news:2.0.0", tmp_path)


def test_an_unknown_split_names_those_there_are(tmp_path, reachable):
    with pytest.raises(UserError, match="no split 'dev'; corpus.split may be train, test"):
        list(read_documents(config(tmp_path, split="dev")))


def test_offline_and_unprepared_fails_at_once_with_what_to_do(tmp_path, unreachable):
    with pytest.raises(UserError, match="cannot be reached .no route.*tfds build small_news --file_format=array_record"):
        prepared.prepare("small_news", tmp_path)


def test_unknown_names_are_refused(tmp_path, reachable):
    with pytest.raises(UserError, match="neither one of python_docs, icd10cm, amazon_reviews, esci, nq320k, msmarco nor known to TFDS"):
        prepared.prepare("no_such_set", tmp_path)
    with pytest.raises(UserError, match="name one of amazon_reviews/beauty"):
        prepared.prepare("amazon_reviews/books", tmp_path)


def test_files_that_need_tensorflow_are_refused(tmp_path, unreachable):
    builder = SmallNews(data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare()
    info = next(tmp_path.glob("tfds/*/*/dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="prepared as tfrecord"):
        list(read_documents(config(tmp_path)))


_IMPORTS = """
import sys
import lmindexer_jax.data.documents, lmindexer_jax.data.tokens
assert not {"tensorflow_datasets", "transformers", "jax"} & set(sys.modules), "slow imports"
from lmindexer_jax.data.builders import amazon_reviews, icd10cm, python_docs
from lmindexer_jax.data import prepared
prepared._quietly(lambda: None)
assert not {"tensorflow", "torch", "numpy.testing", "flax"} & set(sys.modules), "foreign imports"
"""


def test_imports_stay_light_and_without_tensorflow():
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)


def test_a_prepared_set_that_was_removed_is_made_again(tmp_path, monkeypatch):
    class Builder(SmallNews):
        builder_configs = {"only": None}

        def __init__(self, *, config, data_dir, file_format):
            super().__init__(data_dir=data_dir, file_format=file_format)

    monkeypatch.setattr(sys.modules[__name__], "Own", Builder, raising=False)
    monkeypatch.setitem(prepared._OWN, "own_news", (__name__, "Own", ()))
    directory = prepared.prepare("own_news", tmp_path)
    shutil.rmtree(directory)
    assert prepared.prepare("own_news", tmp_path) == directory and (directory / "dataset_info.json").exists()
