"""The independent S3 client of the integration tests: one JSON request a line in, one JSON reply a line out.

Credentials come from HAUL_TEST_ACCESS_KEY and HAUL_TEST_SECRET_KEY. Keys go to the server exactly as given: boto3
percent-encodes them and folds neither `..` nor `//`.
"""

import base64
import hashlib
import json
import os
import sys
import zlib

import boto3
from awscrt.checksums import crc64nvme
from botocore.config import Config
from botocore.exceptions import ClientError

CLIENTS = {}
CHECKSUMS = {"CRC32": zlib.crc32, "CRC64NVME": crc64nvme}


def client(endpoint):
    if endpoint not in CLIENTS:
        CLIENTS[endpoint] = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=os.environ["HAUL_TEST_ACCESS_KEY"],
            aws_secret_access_key=os.environ["HAUL_TEST_SECRET_KEY"],
            region_name="us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"total_max_attempts": 3, "mode": "standard"},
                proxies={},
            ),
        )
    return CLIENTS[endpoint]


def create_bucket(endpoint, bucket):
    client(endpoint).create_bucket(Bucket=bucket)


def bucket_exists(endpoint, bucket):
    return bucket in [found["Name"] for found in client(endpoint).list_buckets()["Buckets"]]


def delete_bucket(endpoint, bucket):
    """Empties the bucket, unfinished uploads included, and removes it. A bucket that is gone already is fine."""
    store = client(endpoint)
    try:
        for upload in raw_uploads(endpoint, bucket):
            store.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        keys = [found["key"] for found in list_objects(endpoint, bucket)]
        plain = [key for key in keys if key.isprintable()]
        for start in range(0, len(plain), 1000):
            batch = [{"Key": key} for key in plain[start : start + 1000]]
            store.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for found in list_objects(endpoint, bucket):
            store.delete_object(Bucket=bucket, Key=found["key"])
        store.delete_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchBucket":
            raise


def put(endpoint, bucket, key, body=None, path=None, metadata=None, headers=None):
    content = open(path, "rb") if path else base64.b64decode(body)
    reply = client(endpoint).put_object(
        Bucket=bucket, Key=key, Body=content, Metadata=metadata or {}, **headers or {}
    )
    return reply["ETag"].strip('"')


def put_multipart(endpoint, bucket, key, path, part_bytes, metadata=None, checksum=None, checksum_type=None):
    """With `checksum` each part carries one, and where it is of the type FULL_OBJECT the whole does, too."""
    store = client(endpoint)
    wanted = {"ChecksumAlgorithm": checksum, "ChecksumType": checksum_type} if checksum else {}
    upload = store.create_multipart_upload(
        Bucket=bucket, Key=key, Metadata=metadata or {}, ContentType="application/x-netcdf", **wanted
    )["UploadId"]
    parts = []
    whole = 0
    with open(path, "rb") as content:
        while chunk := content.read(part_bytes):
            number = len(parts) + 1
            sums = {}
            if checksum:
                sums = written(checksum, CHECKSUMS[checksum](chunk, 0))
                whole = CHECKSUMS[checksum](chunk, whole)
            sent = store.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=chunk, **sums)
            parts.append({"PartNumber": number, "ETag": sent["ETag"], **sums})
    full = {"ChecksumType": checksum_type, **written(checksum, whole)} if checksum_type == "FULL_OBJECT" else {}
    store.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **full
    )


def written(checksum, value):
    """A checksum as S3 wants it told."""
    octets = value.to_bytes(4 if checksum == "CRC32" else 8, "big")
    return {f"Checksum{checksum}": base64.b64encode(octets).decode()}


def checksums(endpoint, bucket, key):
    """What HEAD tells of the object's checksum, without the prefix that S3 gives each name."""
    reply = client(endpoint).head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    prefix = "Checksum"
    return {name.removeprefix(prefix): value for name, value in reply.items() if name.startswith(prefix)}


def copy(endpoint, bucket, source, key):
    """A copy with the metadata of its source."""
    client(endpoint).copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": source})


def begin_multipart(endpoint, bucket, key):
    return client(endpoint).create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]


def put_part(endpoint, bucket, key, upload, number, path):
    with open(path, "rb") as content:
        client(endpoint).upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=content)


def abort_multipart(endpoint, bucket, key, upload):
    client(endpoint).abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)


def get(endpoint, bucket, key, path=None):
    """The body in base64, or written to `path`."""
    body = client(endpoint).get_object(Bucket=bucket, Key=key)["Body"]
    if path is None:
        return base64.b64encode(body.read()).decode()
    with open(path, "wb") as file:
        for chunk in body.iter_chunks(1 << 20):
            file.write(chunk)
    return None


def head(endpoint, bucket, key):
    """Size, ETag and metadata, or null where there is no such object."""
    try:
        reply = client(endpoint).head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
    return {
        "size": reply["ContentLength"],
        "etag": reply["ETag"].strip('"'),
        "content_type": reply["ContentType"],
        "metadata": reply["Metadata"],
    }


def list_objects(endpoint, bucket):
    found = []
    for page in client(endpoint).get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            found.append({"key": entry["Key"], "size": entry["Size"], "etag": entry["ETag"].strip('"')})
    return found


def delete(endpoint, bucket, key):
    client(endpoint).delete_object(Bucket=bucket, Key=key)


def raw_uploads(endpoint, bucket):
    return client(endpoint).list_multipart_uploads(Bucket=bucket).get("Uploads", [])


def uploads(endpoint, bucket):
    return [upload["Key"] for upload in raw_uploads(endpoint, bucket)]


def upload_ids(endpoint, bucket):
    return [upload["UploadId"] for upload in raw_uploads(endpoint, bucket)]


def etag_of(path, part_bytes=None):
    """What S3 answers for this file: its MD5, or the MD5 of its parts' MD5s and their number."""
    digests = []
    with open(path, "rb") as content:
        if part_bytes is None:
            return hashlib.file_digest(content, "md5").hexdigest()
        while chunk := content.read(part_bytes):
            digests.append(hashlib.md5(chunk).digest())
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"


OPERATIONS = {
    operation.__name__: operation
    for operation in (
        abort_multipart,
        begin_multipart,
        bucket_exists,
        checksums,
        copy,
        create_bucket,
        delete,
        delete_bucket,
        etag_of,
        get,
        head,
        list_objects,
        put,
        put_multipart,
        put_part,
        upload_ids,
        uploads,
    )
}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        operation = request.pop("operation")
        try:
            reply = {"reply": OPERATIONS[operation](**request)}
        except Exception as error:  # every failure goes back to the test that asked
            reply = {"error": f"{operation}: {type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


main()
