"""Files are whole or not there, and damage is told in one line."""

import errno
import multiprocessing
import os
import resource
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from fokker import storage
from fokker.errors import InputError
from fokker.locks import locked

# Children are forked from one process that has done the imports and has no threads.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["fokker.simulation.store", "pytest"])


def one_line(caught: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITERS = {
    "json": lambda path, k: storage.write_json(path, {"k": k}),
    "tensors": lambda path, k: storage.write_tensors(path, {"k": torch.full((3,), float(k))}, {"k": str(k)}),
    "text": lambda path, k: storage.write_text(path, f"k = {k}"),
    "bytes": lambda path, k: storage.write_bytes(path, bytes([k])),
}


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"text": "ÅΩ"}, "n": np.float32(0.5), "v": np.arange(3)}
    storage.write_json(tmp_path / "new" / "folder" / "a.json", value)
    back = storage.read_json(tmp_path / "new" / "folder" / "a.json")
    assert back == {"b": [1, 2.5, None, True], "a": {"text": "ÅΩ"}, "n": 0.5, "v": [0, 1, 2]}
    assert list(back) == ["b", "a", "n", "v"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, -np.inf])])
def test_json_refuses_what_is_not_a_number(tmp_path: Path, bad: object) -> None:
    storage.write_json(tmp_path / "a.json", {"k": 1})
    with pytest.raises(ValueError, match=r"a\.json") as caught:
        storage.write_json(tmp_path / "a.json", {"k": bad})
    one_line(caught)
    assert storage.read_json(tmp_path / "a.json") == {"k": 1}


@pytest.mark.parametrize(
    "content",
    [b"", b'{"a": 1', b'{"a": NaN}', b"-Infinity", b"\x89PNG\r\n\x1a\n\x00", b"\xff\xfe{", b"[" * 200_000],
    ids=["empty", "truncated", "nan", "infinity", "image", "not utf-8", "deep"],
)
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        storage.read_json(tmp_path / "a.json")
    one_line(caught, str(tmp_path / "a.json"), "damaged")


def test_tensors_round_trip(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    tensors = {
        "transposed": base.T,
        "shared": base[1],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "learned": torch.ones(2, requires_grad=True),
    }
    metadata = {f"key {i}": f"värde {i}" for i in range(8)}
    storage.write_tensors(tmp_path / "a.safetensors", tensors, metadata)
    back, notes = storage.read_tensors(tmp_path / "a.safetensors")
    assert notes == metadata
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_tensor_files_are_standard_and_the_same_bytes(tmp_path: Path) -> None:
    from safetensors import safe_open

    tensors = {name: torch.full((3,), float(ord(name))) for name in "cab"}
    for file in ("a", "b"):
        storage.write_tensors(tmp_path / file, tensors, {str(i): "v" for i in range(20)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="pt") as opened:
        assert opened.metadata()["7"] == "v"
        assert torch.equal(opened.get_tensor("c"), tensors["c"])


def test_tensor_files_from_elsewhere_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "plain")
    tensors, metadata = storage.read_tensors(tmp_path / "plain")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert metadata == {}


def test_any_cut_and_any_flipped_bit_of_a_tensor_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    storage.write_tensors(path, {"a": torch.arange(4.0), "b": torch.ones(1)}, {"steps": "12"})
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(8, len(whole))]
    for content in damaged:
        path.write_bytes(content)
        try:
            storage.read_tensors(path)
        except InputError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            # Only a change in the name of the checksum goes by: the file then looks like one from elsewhere.
            assert b"fokker.sha256" not in content


@pytest.mark.parametrize("read", [storage.read_json, storage.read_tensors, storage.file_hash])
def test_missing_files_and_folders(tmp_path: Path, read: object) -> None:
    (tmp_path / "file").write_text("x")
    for path, said in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "file" / "below", "no such file"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(InputError) as caught:
            read(path)  # type: ignore[operator]
        one_line(caught, str(path), said)


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.file_hash(tmp_path / "abc") == known


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, call: str) -> None:
    path = tmp_path / "target"
    WRITERS[kind](path, 1)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full_disk)
        with pytest.raises(OSError, match="No space left") as caught:
            WRITERS[kind](path, 2)
    assert caught.value.errno == errno.ENOSPC
    one_line(caught, str(path))
    assert ".fokker-tmp" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["target"]
    WRITERS[kind](path, 2)
    assert path.read_bytes() != before


def write_beyond_the_limit(path: Path, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        storage.write_bytes(path, bytes(1_000_000))
    except OSError as error:
        answer.send(str(error))


def test_a_write_the_kernel_refuses(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the write fails after a part of it went through."""
    path = tmp_path / "big"
    path.write_bytes(b"old")
    here, there = CHILDREN.Pipe()
    child = CHILDREN.Process(target=write_beyond_the_limit, args=(path, there))
    child.start()
    assert here.recv() == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{path}'"
    child.join()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["big"]


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, named in (
        (tmp_path / "file" / "a.json", tmp_path / "file"),
        (Path("/proc/no/a.json"), "/proc/no"),
        (tmp_path, tmp_path),
    ):
        with pytest.raises(OSError, match=str(named)) as caught:
            storage.write_json(path, {})
        one_line(caught)
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), storage.atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["figure.png"]


def test_other_errors_in_the_body_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="some/input"), storage.atomic_path(tmp_path / "a"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "some/input")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "a")), storage.atomic_path(tmp_path / "a"):
        pass  # nothing was written


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "posterior.zarr"
    for k in range(2):
        with storage.atomic_path(path) as temporary:
            (temporary / "sub").mkdir(parents=True)
            (temporary / "sub" / f"{k}.bin").write_bytes(b"data")
    assert [str(p.relative_to(path)) for p in sorted(path.rglob("*"))] == ["sub", "sub/1.bin"]
    assert os.listdir(tmp_path) == ["posterior.zarr"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "posterior.zarr"
    path.mkdir()
    (path / "old").write_bytes(b"old")
    replace, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            full_disk()
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="No space left"), storage.atomic_path(path) as temporary:
        temporary.mkdir()
    assert (path / "old").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["posterior.zarr"]


def test_ensure_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = storage.ensure_writable(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert os.listdir(folder) == []
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="got a file, or a place below one"):
            storage.ensure_writable(bad)
    for bad in (Path("/proc"), Path("/proc/no")):
        with pytest.raises(OSError, match="cannot write into this folder") as caught:
            storage.ensure_writable(bad)
        one_line(caught, str(bad))
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        storage.ensure_writable(folder)
    assert os.listdir(folder) == []


def test_a_sealed_file_with_one_changed_byte_is_refused(tmp_path: Path) -> None:
    """Also where what is left is good JSON: [ 0.002] with a digit in place of the space."""
    path, value = tmp_path / "a.json", {"range": [0.002, 20.0], "levels": {2.0: 1.5, 10.0: np.float32(0.1)}, "n": 3}
    storage.write_sealed(path, value)
    whole = {"range": [0.002, 20.0], "levels": {"2.0": 1.5, "10.0": float(np.float32(0.1))}, "n": 3}
    assert storage.read_sealed(path) == whole
    content, refused = path.read_bytes(), 0
    for position in range(len(content)):
        for flip in (0x01, 0x10, 0x11):
            path.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
            try:
                assert storage.read_sealed(path) == whole  # white space
            except InputError as error:
                assert str(path) in str(error)
                refused += 1
    assert refused >= 2 * len(content)
    storage.write_json(path, {"n": 3})
    with pytest.raises(InputError, match="checksum"):
        storage.read_sealed(path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(InputError) as caught, locked(tmp_path):
            pass
        one_line(caught, str(tmp_path), f"process {os.getpid()}")
    with locked(tmp_path):
        pass
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match="none"), locked(tmp_path / "none"):
        pass


def hold_half_written(folder: Path, answer: Connection) -> None:
    with locked(folder), storage.atomic_path(folder / "models" / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        answer.send("ready")
        time.sleep(600)


def test_the_lock_dies_with_its_process_and_what_it_left_is_removed(tmp_path: Path) -> None:
    here, there = CHILDREN.Pipe()
    child = CHILDREN.Process(target=hold_half_written, args=(tmp_path, there))
    child.start()
    assert here.recv() == "ready"
    with pytest.raises(InputError, match=f"process {child.pid}"), locked(tmp_path):
        pass
    child.kill()
    child.join()
    assert len(os.listdir(tmp_path / "models")) == 1
    assert not (tmp_path / "models" / "a.bin").exists()
    with locked(tmp_path):
        assert os.listdir(tmp_path / "models") == []


def die_at_the_rename(path: Path, before: bool) -> None:
    replace = os.replace

    def dying(source: Path, target: Path) -> None:
        if not before:
            replace(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying  # type: ignore[assignment]
    storage.write_json(path, {"value": "new" * 1000})


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_the_rename_a_file_is_old_or_new(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "a.json"
    storage.write_json(path, {"value": "old"})
    child = CHILDREN.Process(target=die_at_the_rename, args=(path, before))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert storage.read_json(path) == {"value": "old" if before else "new" * 1000}
