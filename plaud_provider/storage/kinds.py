"""
What is particular about S3, Google Cloud Storage and Azure.

Each class drives the file system that Airflow opens for a connection, one request at a time. Where that file
system parses paths (``?versionId=``, ``#``), its client is asked instead: names are taken as they are.
Coroutines run in the file system's own loop.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

#: Storage classes of S3 that have to be restored. GLACIER_IR is read like any other.
_S3_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")


class ObjectMetadata(NamedTuple):
    """
    What a storage says about an object without reading it.

    :param key: Its name in its bucket.
    :param size: Bytes.
    :param version: Version of its content. It has to be the same at each look as long as the content is, so
        it is the content's hash where there is one: other marks also change when only metadata do, and a
        changed mark is paid for.
    :param modified: Time of its last change (UTC).
    :param is_folder: Whether it only stands for a folder.
    :param is_archived: Whether it cannot be read before it is restored; a listing does not tell.
    """

    key: str
    size: int | None
    version: str | None
    modified: datetime | None
    is_folder: bool = False
    is_archived: bool = False


class Page(NamedTuple):
    """
    A page of a listing, in the order of the names' bytes.

    :param objects: Objects.
    :param folders: Prefixes, where a delimiter was given.
    :param next: What the next page is asked with; empty after the last one.
    """

    objects: Sequence[ObjectMetadata]
    folders: Sequence[str]
    next: str


class StorageKind(ABC):
    """
    A kind of storage.

    Where something is not there, its methods raise ``FileNotFoundError``, as far as the storage tells.
    """

    #: Extra of this distribution that brings its libraries.
    extra: ClassVar[str]
    #: What signing needs there.
    needs: ClassVar[str]
    #: What Airflow's connection does not set.
    file_system_options: ClassVar[Mapping[str, Any]] = {}

    def prepare(self, file_system: Any) -> None:  # noqa: B027
        """Set what cannot be set when a file system is opened."""

    def account(self, file_system: Any) -> str:
        """Return the account that a file system leads to, where references name one."""
        return ""

    async def describe(self, file_system: Any, bucket: str, key: str) -> ObjectMetadata:
        """Look an object up; ``IsADirectoryError`` if it is a folder."""
        try:
            return await self._describe(file_system, bucket, key)
        except FileNotFoundError:
            page = await self.page(file_system, bucket, f"{key}/", after="", delimiter="/")
            if page.objects or page.folders:
                raise IsADirectoryError from None
            raise

    @abstractmethod
    async def _describe(self, file_system: Any, bucket: str, key: str) -> ObjectMetadata: ...

    async def begin(
        self, file_system: Any, bucket: str, key: str, size: int
    ) -> tuple[ObjectMetadata, bytes] | None:
        """
        Look an object up and read its beginning, by one request.

        :param size: Bytes to read at most.
        :return: Both; ``None`` where that takes two requests, or where :meth:`describe` tells better why it
            cannot be read.
        """
        return None

    @abstractmethod
    async def page(self, file_system: Any, bucket: str, prefix: str, *, after: str, delimiter: str) -> Page:
        """
        Return a page of what begins with a prefix.

        :param after: What the page before it said comes next; empty for the first one.
        :param delimiter: Where names that go on behind it are cut, and counted as folders; empty: nowhere.
        """

    @abstractmethod
    async def read(self, file_system: Any, bucket: str, key: str, span: tuple[int, int] | None) -> bytes:
        """Return bytes from the first offset up to the second, or all."""

    @abstractmethod
    async def write(self, file_system: Any, bucket: str, key: str, content: bytes) -> None:
        """Write an object, whole or not at all."""

    async def upload(self, file_system: Any, bucket: str, key: str, path: str) -> None:
        """Write an object from a local file, in parts if it is large."""
        await file_system._put_file(path, f"{bucket}/{key}")

    @abstractmethod
    async def remove(self, file_system: Any, bucket: str, key: str) -> None:
        """Remove an object."""

    @abstractmethod
    async def sign(self, file_system: Any, bucket: str, key: str, validity: timedelta) -> str:
        """Return a URL that gives this object for so long."""


class S3(StorageKind):
    """Amazon S3, and what speaks its language."""

    extra = "s3"
    needs = "an access key, or a role that the connection may assume"
    # botocore still pre-signs with version 2 by default, which most buckets refuse.
    file_system_options: ClassVar[Mapping[str, Any]] = {"signature_version": "s3v4"}

    def prepare(self, file_system: Any) -> None:
        """Have URLs signed for the bucket's region, which need not be the connection's."""
        file_system.cache_regions = True

    async def _describe(self, file_system: Any, bucket: str, key: str) -> ObjectMetadata:
        found = await file_system._call_s3("head_object", Bucket=bucket, Key=key)
        metadata = _s3_metadata(key, {**found, "Size": found["ContentLength"]})
        return metadata._replace(is_archived=_is_archived_in_s3(found))

    async def begin(
        self, file_system: Any, bucket: str, key: str, size: int
    ) -> tuple[ObjectMetadata, bytes] | None:
        """Read the beginning of an object: the answer says what it is."""
        options = {"Bucket": bucket, "Key": key, "Range": f"bytes=0-{size - 1}"}
        try:
            found = await file_system._call_s3("get_object", **options)
        except OSError:
            return None
        async with found["Body"] as body:
            # Whoever knows no ranges would send all of it.
            whole = int(found.get("ContentRange", "").rpartition("/")[2] or found["ContentLength"])
            if found["ContentLength"] > size:
                return None
            content: bytes = await body.read()
        return _s3_metadata(key, {**found, "Size": whole}), content

    async def page(self, file_system: Any, bucket: str, prefix: str, *, after: str, delimiter: str) -> Page:
        """Return a page of a listing."""
        options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter}
        if after:
            options["ContinuationToken"] = after
        found = await file_system._call_s3("list_objects_v2", **options)
        return Page(
            [_s3_metadata(item["Key"], item) for item in found.get("Contents", ())],
            [item["Prefix"] for item in found.get("CommonPrefixes", ())],
            found.get("NextContinuationToken", "") if found.get("IsTruncated") else "",
        )

    async def read(self, file_system: Any, bucket: str, key: str, span: tuple[int, int] | None) -> bytes:
        """Return an object's bytes."""
        options = {"Range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
        found = await file_system._call_s3("get_object", Bucket=bucket, Key=key, **options)
        async with found["Body"] as body:
            content: bytes = await body.read()
        return content

    async def write(self, file_system: Any, bucket: str, key: str, content: bytes) -> None:
        """Write an object by one PUT."""
        await file_system._call_s3("put_object", Bucket=bucket, Key=key, Body=content)

    async def remove(self, file_system: Any, bucket: str, key: str) -> None:
        """Remove an object."""
        await file_system._call_s3("delete_object", Bucket=bucket, Key=key)

    async def sign(self, file_system: Any, bucket: str, key: str, validity: timedelta) -> str:
        """
        Return a signed URL.

        It names no version of the object, though a bucket may keep versions: that takes another right to read
        (``s3:GetObjectVersion``), which a role that may read the object need not have.
        """
        await file_system.set_session()
        client = await file_system.get_s3(bucket)
        url: str = await client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=int(validity.total_seconds())
        )
        return url


class GoogleCloudStorage(StorageKind):
    """Google Cloud Storage. Its library takes names as they are."""

    extra = "gcs"
    needs = "a service account key, or impersonation of a service account; other credentials cannot sign"

    async def _describe(self, file_system: Any, bucket: str, key: str) -> ObjectMetadata:
        # Not by its library's look-up, which makes three requests, and remembers what they told.
        found = await file_system._call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        return _google_metadata(key, found)

    async def page(self, file_system: Any, bucket: str, prefix: str, *, after: str, delimiter: str) -> Page:
        """Return a page of a listing."""
        found = await file_system._call(
            "GET",
            "b/{}/o",
            bucket,
            json_out=True,
            prefix=prefix or None,
            delimiter=delimiter or None,
            pageToken=after or None,
        )
        return Page(
            [_google_metadata(item["name"], item) for item in found.get("items", ())],
            found.get("prefixes", ()),
            found.get("nextPageToken", ""),
        )

    async def read(self, file_system: Any, bucket: str, key: str, span: tuple[int, int] | None) -> bytes:
        """Return an object's bytes."""
        start, end = span or (None, None)
        content: bytes = await file_system._cat_file(f"{bucket}/{key}", start=start, end=end)
        return content

    async def write(self, file_system: Any, bucket: str, key: str, content: bytes) -> None:
        """Write an object, which appears when all of it has come."""
        await file_system._pipe_file(f"{bucket}/{key}", content)

    async def remove(self, file_system: Any, bucket: str, key: str) -> None:
        """Remove an object."""
        await file_system._rm_file(f"{bucket}/{key}")

    async def sign(self, file_system: Any, bucket: str, key: str, validity: timedelta) -> str:
        """Return a signed URL."""
        # Google's own client; it may ask its IAM service to sign, and blocks.
        seconds = int(validity.total_seconds())
        url: str = await asyncio.to_thread(
            file_system.sign, f"{bucket}/{key}", expiration=seconds, version="v4"
        )
        return url


class Azure(StorageKind):
    """Azure Blob Storage, through Azure's own client: its file system parses names as URLs."""

    extra = "azure"
    needs = (
        "the account's name (extra account_name) and key (password), or a connection string that has both; "
        "a service principal or a SAS token cannot sign"
    )

    async def _describe(self, file_system: Any, bucket: str, key: str) -> ObjectMetadata:
        async with _azure_blob(file_system, bucket, key) as blob:
            found = _azure_metadata(key, await blob.get_blob_properties())
        if found.is_folder:
            raise IsADirectoryError
        return found

    async def page(self, file_system: Any, bucket: str, prefix: str, *, after: str, delimiter: str) -> Page:
        """Return a page of a listing."""
        from azure.storage.blob.aio import BlobPrefix

        options: dict[str, Any] = {"name_starts_with": prefix or None, "include": ["metadata"]}
        objects, folders = [], []
        async with _found_in_azure(file_system.service_client.get_container_client(bucket)) as container:
            blobs = (
                container.walk_blobs(delimiter=delimiter, **options)
                if delimiter
                else container.list_blobs(**options)
            )
            pages = blobs.by_page(after or None)
            async for item in await anext(pages):
                if isinstance(item, BlobPrefix):
                    folders.append(item.name)
                else:
                    objects.append(_azure_metadata(item.name, item))
        return Page(objects, folders, pages.continuation_token or "")

    async def read(self, file_system: Any, bucket: str, key: str, span: tuple[int, int] | None) -> bytes:
        """Return an object's bytes."""
        options = {"offset": span[0], "length": span[1] - span[0]} if span else {}
        async with _azure_blob(file_system, bucket, key) as blob:
            content: bytes = await (await blob.download_blob(**options)).readall()
        return content

    async def write(self, file_system: Any, bucket: str, key: str, content: bytes) -> None:
        """Write an object, which appears when all of it has come."""
        async with _azure_blob(file_system, bucket, key) as blob:
            await blob.upload_blob(content, overwrite=True)

    async def remove(self, file_system: Any, bucket: str, key: str) -> None:
        """Remove an object."""
        async with _azure_blob(file_system, bucket, key) as blob:
            await blob.delete_blob()

    async def sign(self, file_system: Any, bucket: str, key: str, validity: timedelta) -> str:
        """Return a URL with a shared access signature."""
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        service = file_system.service_client
        signature = generate_blob_sas(
            account_name=service.account_name,
            account_key=service.credential.account_key,
            container_name=bucket,
            blob_name=key,
            permission=BlobSasPermissions(read=True),
            expiry=datetime.now(tz=UTC) + validity,
        )
        async with service.get_blob_client(bucket, key) as blob:
            return f"{blob.url}?{signature}"

    def account(self, file_system: Any) -> str:
        """Return the storage account."""
        name: str = file_system.service_client.account_name
        return name


#: Kinds of storage by the scheme of references to them.
KINDS: Mapping[str, StorageKind] = {
    "s3": S3(),
    "gs": GoogleCloudStorage(),
    "abfs": Azure(),
    "abfss": Azure(),
}


def _s3_metadata(key: str, found: Mapping[str, Any]) -> ObjectMetadata:
    return ObjectMetadata(key, found["Size"], _mark(found.get("ETag")), found.get("LastModified"))


def _is_archived_in_s3(found: Mapping[str, Any]) -> bool:
    """Return whether S3 keeps an object where it cannot be read at once, and has no restored copy of it."""
    is_away = found.get("StorageClass") in _S3_ARCHIVES or "ArchiveStatus" in found
    return is_away and 'ongoing-request="false"' not in found.get("Restore", "")


def _google_metadata(key: str, found: Mapping[str, Any]) -> ObjectMetadata:
    updated = found.get("updated")
    return ObjectMetadata(
        key,
        int(found["size"]) if "size" in found else None,
        _mark(found.get("md5Hash") or found.get("generation")),
        datetime.fromisoformat(updated).astimezone(UTC) if updated else None,
    )


def _azure_blob(file_system: Any, bucket: str, key: str) -> AbstractAsyncContextManager[Any]:
    return _found_in_azure(file_system.service_client.get_blob_client(bucket, key))


@asynccontextmanager
async def _found_in_azure(client: Any) -> AsyncIterator[Any]:
    """Yield an Azure client, and close it after; what is not there is a ``FileNotFoundError``."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        async with client:
            yield client
    except ResourceNotFoundError:
        raise FileNotFoundError from None


def _azure_metadata(key: str, found: Any) -> ObjectMetadata:
    md5 = found.content_settings.content_md5
    # Folders of an account with a hierarchical namespace, as blobs.
    metadata = {name.lower(): value for name, value in (found.metadata or {}).items()}
    is_folder = "true" in (metadata.get("hdi_isfolder"), metadata.get("is_directory"))
    return ObjectMetadata(
        key,
        found.size,
        _mark(bytes(md5).hex() if md5 else found.etag),
        found.last_modified,
        is_folder,
        # The tier changes when the blob has been restored, not when that begins.
        is_archived=found.blob_tier == "Archive",
    )


def _mark(value: object) -> str | None:
    return str(value).strip('"') if value else None
