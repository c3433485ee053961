"""Files on S3: fetched into folders here and stored from them."""

from avsl.storage.s3 import Report, StorageError, download, is_remote, listing, local_root, upload

__all__ = ["Report", "StorageError", "download", "is_remote", "listing", "local_root", "upload"]
