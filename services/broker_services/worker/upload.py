"""The handler of the queue `uploadpicture`: says what an uploaded picture is, and makes a thumbnail beside it.

The payload is what asyncUpload made it, `{"name", "content_type", "size", "file"}`: names as the sender gave them, and
the uuid that the file is stored under. The result is `{"name", "type", "size", "width", "height", "sha256", "file",
"thumbnail": {"file", "type", "width", "height", "size"}}`: type by the content, width and height in pixels as the
picture is meant to be looked at, paths below BROKER_UPLOAD_URL.

What ends a task as failed, by code:

- `not-an-image`: no picture of a known type.
- `unsupported-image`: of a type that is known and not decoded here, SVG for instance.
- `broken-image`: damaged or cut off.
- `image-too-large`: more pixels than are decoded here, however few its bytes are (`details.limit`).
- `file-gone`: it went with the record of the task that it was uploaded for; a retried task may meet this.
- `invalid-payload`: made by somebody else, and not like the above.
- `upload-store-failed`: another attempt may help.
"""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from broker import naming
from broker.errors import TaskError
from broker.task import Task
from broker_services.files import ORIGINAL, THUMBNAIL, FileStore

if TYPE_CHECKING:
    from broker_services.worker.picture import Picture

DIGEST_PIECE_BYTES: Final = 262_144


class UploadedFile(msgspec.Struct, frozen=True):
    """The payload."""

    file: Annotated[str, Meta(pattern=naming.UUID_PATTERN)]
    name: str
    size: int


class PictureProcessor:
    """Handles the tasks of the queue `uploadpicture`. Blocks, so it is run in threads.

    Args:
        store: Where the files are.
    """

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def __call__(self, task: Task) -> dict[str, Any]:
        """Looks at the picture and stores its thumbnail.

        Raises:
            TaskError: With a code of the module's list.
        """
        # Pillow is imported by the first picture: many workers never see one.
        from broker_services.worker.picture import look_at

        uploaded = read_payload(task.payload)
        try:
            with self._store.open(uploaded.file) as file:
                digest = _digest(file, uploaded.size)
                picture = look_at(file)
            # Under the name of this task, not of the one that the file came with: it goes with this one's record.
            thumbnail = self._store.write(task.uuid, THUMBNAIL, picture.thumbnail.content)
        except FileNotFoundError:
            raise _gone() from None
        except TaskError:
            raise
        except Exception as error:
            message = f"The uploads' store failed ({type(error).__name__}: {error})."
            raise TaskError(message, code="upload-store-failed", retry=True) from error
        return _result(uploaded, picture, digest, self._store.path(uploaded.file, ORIGINAL), thumbnail)


def read_payload(payload: Any) -> UploadedFile:
    """Checks the shape of a payload.

    Raises:
        TaskError: `invalid-payload`; the message names the field.
    """
    try:
        return msgspec.convert(payload, UploadedFile)
    except msgspec.ValidationError as error:
        message = f"The payload cannot be used ({str(error)[:200]}): upload a file by asyncUpload."
        raise TaskError(message, code="invalid-payload") from None


def _digest(file: IO[bytes], size: int) -> str:
    """Of the whole file, which must be as long as it was when it was stored; then at its beginning again."""
    digest, length = hashlib.sha256(), 0
    while piece := file.read(DIGEST_PIECE_BYTES):
        digest.update(piece)
        length += len(piece)
    if length != size:
        raise TaskError(f"The file has {length} bytes and was stored with {size}.", code="broken-image")
    file.seek(0)
    return digest.hexdigest()


def _result(uploaded: UploadedFile, picture: Picture, digest: str, file: str, thumbnail: str) -> dict[str, Any]:
    return {
        "name": uploaded.name,
        "type": picture.media_type,
        "size": uploaded.size,
        "width": picture.width,
        "height": picture.height,
        "sha256": digest,
        "file": file,
        "thumbnail": {
            "file": thumbnail,
            "type": "image/jpeg",
            "width": picture.thumbnail.width,
            "height": picture.thumbnail.height,
            "size": len(picture.thumbnail.content),
        },
    }


def _gone() -> TaskError:
    message = "The file is gone, with the record of the task that it was uploaded for: upload it again."
    return TaskError(message, code="file-gone")
