"""Remote images, served by a local S3 server."""

from __future__ import annotations

import http.server
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import fsspec
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from graft.config.parameters import LimitsConfig
from graft.data import remote_storage as remote
from graft.data.images import read_rgb
from graft.data.manifest import scan
from graft.data.storage import StoredFile
from graft.errors import DataError

BUCKET = "photos"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server, "GRAFT_CACHE": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)


def upload(client: object, folder: Path, prefix: str = "") -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{prefix}{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())  # type: ignore[attr-defined]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were fetched."""
    paths: list[str] = []
    fetch_one = remote.RemoteStorage._fetch_one

    def recording(self: remote.RemoteStorage, file: StoredFile) -> str:
        paths.append(file.path)
        return fetch_one(self, file)

    monkeypatch.setattr(remote.RemoteStorage, "_fetch_one", recording)
    return paths


def test_bucket_scan_equals_folder_scan(s3: object, shapes: Path, fetched: list[str]) -> None:
    (shapes / ".hidden.png").write_bytes(b"x")
    shutil.copytree(shapes / "red", shapes / ".net")
    (shapes / "red" / "bad.jpg").write_text("<html>" * 30)
    upload(s3, shapes, "set/")
    remote_manifest, local_manifest = scan(f"s3://{BUCKET}/set/"), scan(shapes)
    pd.testing.assert_frame_equal(remote_manifest.table, local_manifest.table)
    pd.testing.assert_frame_equal(remote_manifest.skipped, local_manifest.skipped)
    assert remote_manifest.root == f"s3://{BUCKET}/set"
    assert remote_manifest.fingerprint == local_manifest.fingerprint
    assert len(fetched) == 25
    first = remote_manifest.table.iloc[0]
    pixels = read_rgb(remote_manifest.folder() / first["path"], first["sha256"])
    assert pixels.shape == (first["height_px"], first["width_px"], 3)


def test_second_scan_fetches_only_changed_files(s3: object, shapes: Path, fetched: list[str]) -> None:
    upload(s3, shapes)
    scan(f"s3://{BUCKET}")
    fetched.clear()
    (shapes / "red" / "1.png").write_bytes((shapes / "red" / "2.png").read_bytes())
    s3.upload_file(str(shapes / "red" / "1.png"), BUCKET, "red/1.png")  # type: ignore[attr-defined]
    table = scan(f"s3://{BUCKET}").table.set_index("path")
    assert fetched == ["red/1.png"]
    assert table["sha256"]["red/1.png"] == table["sha256"]["red/2.png"]


def test_manifest_folder_fetches_missing_images(
    s3: object, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(s3, shapes)
    manifest = scan(f"s3://{BUCKET}")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "another"))
    folder = manifest.folder()
    assert folder.is_relative_to(tmp_path / "another")
    for path, sha256 in zip(manifest.table["path"], manifest.table["sha256"], strict=True):
        read_rgb(folder / path, sha256)


def test_remote_table_fetches_only_its_own_images(s3: object, shapes: Path, fetched: list[str]) -> None:
    lines = [
        "path,label,split",
        "blue/1.png,a,train",
        f"s3://{BUCKET}/red/2.png,b,val",
        "gone.png,b,",
        "../x.png,b,",
    ]
    (shapes / "images.csv").write_text("\n".join(lines))
    upload(s3, shapes)
    table = scan(f"s3://{BUCKET}/images.csv").table.set_index("path")
    assert sorted(fetched) == ["blue/1.png", "images.csv", "red/2.png"]
    assert table["given_split"].to_dict() == {
        "../x.png": "",
        "blue/1.png": "train",
        "gone.png": "",
        "red/2.png": "val",
    }
    assert table["error"]["gone.png"] == table["error"]["../x.png"] == f"does not exist at s3://{BUCKET}"


def test_deleted_remote_table_is_not_read_from_the_mirror(s3: object, shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nblue/1.png,a\n")
    upload(s3, shapes)
    scan(f"s3://{BUCKET}/images.csv")
    s3.delete_object(Bucket=BUCKET, Key="images.csv")  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"images\.csv: does not exist at s3://photos; give a CSV or Parquet file"):
        scan(f"s3://{BUCKET}/images.csv")


def test_damaged_mirror_is_repaired(s3: object, shapes: Path, fetched: list[str]) -> None:
    upload(s3, shapes)
    folder = scan(f"s3://{BUCKET}").folder()
    (folder / "red" / "1.png").write_bytes(b"half")
    fetched.clear()
    scan(f"s3://{BUCKET}")
    assert fetched == ["red/1.png"]
    (folder / remote.STAMPS_FILE).write_text("{")
    fetched.clear()
    scan(f"s3://{BUCKET}")
    assert len(fetched) == 24


def test_stamp_is_empty_without_time_or_tag() -> None:
    assert remote._stamp({"name": "x", "size": None, "type": "file"}) == ""
    assert remote._stamp({"name": "x", "ETag": "1"}) != remote._stamp({"name": "x", "ETag": "2"})


def test_fetch_reports_full_disk_in_one_sentence(s3: object, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(s3, shapes)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(
        DataError, match=r"cannot be fetched into .*No space left on device.*the same command again: it resumes"
    ):
        scan(f"s3://{BUCKET}")


def test_remote_files_with_invalid_local_names_become_errors(s3: object, shapes: Path) -> None:
    upload(s3, shapes)
    for key in ("red/" + "n" * 300 + ".png", "red//double.png", "red/1.png/inside.png"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=(shapes / "red" / "1.png").read_bytes())  # type: ignore[attr-defined]
    table = scan(f"s3://{BUCKET}").table
    errors = table.loc[table["error"] != "", ["path", "error"]].to_numpy().tolist()
    assert len(table) - len(errors) == 24
    assert ["red/1.png", "has the name of a folder; rename one of them"] in errors
    assert {path for path, error in errors if error == "has a name that is not valid in a local folder; rename it"} == {
        "red/" + "n" * 300 + ".png", "red//double.png",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["red/../../escape.png", "/escape.png", "red/./1.png", "a\0.png", "red/"])
def test_path_that_leaves_the_mirror_is_a_problem(path: str) -> None:
    assert remote._path_problem(path)


def test_missing_bucket_credentials_or_file_system_is_a_data_error(s3: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3
    with pytest.raises(DataError, match=r"s3://nowhere: (cannot be listed|no images found)"):
        scan("s3://nowhere")
    with pytest.raises(DataError, match=f"s3://{BUCKET}: no images found"):
        scan(f"s3://{BUCKET}")
    for address in ("gopher://x", "ftp://127.0.0.1:9/x", "github://x"):
        with pytest.raises(DataError, match=f"{address}: cannot be opened"):
            scan(address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"s3://other: cannot be listed .*; check the address and your credentials"):
        scan("s3://other")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    file_systems = fsspec.get_filesystem_class("s3")
    file_systems.clear_instance_cache()  # an instance keeps the address with which it was made
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    file_systems.clear_instance_cache()


@pytest.mark.parametrize("kind", ["http", "http table", "ftp", "s3"])
def test_server_that_never_answers_is_a_data_error(
    silent_server: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{silent_server}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    addresses = {"http table": f"http://{silent_server}/images.csv", "s3": "s3://silent"}
    address = addresses.get(kind, f"{kind}://{silent_server}/photos")
    with pytest.raises(DataError, match=r"cannot be (listed|opened) \(no answer within 0\.5 s\)"):
        scan(address, LimitsConfig(max_silence_s=0.5))


class _EndlessImage(http.server.BaseHTTPRequestHandler):
    """Serves a page that links to one image, which is endless or stops in the middle."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if not self.path.endswith(".png"):
            self.wfile.write(f'<a href="{self.path.rstrip("/")}/red/1.png">image</a>'.encode())
            return
        with suppress(OSError):
            self.wfile.write(b"x" * 1000)
            while "stops" not in self.path:
                self.wfile.write(b"x" * 1000)
            time.sleep(5)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def endless_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _EndlessImage) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download_has_limits_of_bytes_and_of_silence(endless_server: str) -> None:
    storage = remote.RemoteStorage(f"{endless_server}/endless", LimitsConfig(max_file_bytes=100_000))
    assert storage.fetch([StoredFile("red/1.png")]) == {"red/1.png": "has more bytes than the limit of 100000"}
    assert not list(storage.folder.rglob("*.png"))
    with pytest.raises(DataError, match=r"/stops.* \(no answer within 1 s\)"):
        remote.RemoteStorage(f"{endless_server}/stops", LimitsConfig(max_silence_s=1)).fetch([StoredFile("red/1.png")])


def test_misspelt_path_in_remote_table_is_recognized(s3: object, shapes: Path) -> None:
    (shapes / "images.csv").write_text("path,label\nRED\\1.PNG,a\n")
    upload(s3, shapes)
    with pytest.raises(
        DataError, match=r"1 would with / for \\ and in the case of the file's name .* means red/1\.png"
    ):
        scan(f"s3://{BUCKET}/images.csv")
