"""Make the buckets that are named, keeping the versions of what is in them: `make_buckets.py BUCKET ...`.

Server, user and password are found as boto3 finds them. It may be run again.
"""

import sys

import boto3


def make(names: list[str]) -> None:
    """Make what is not there yet, and switch versions on in all of them."""
    client = boto3.client("s3")
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in there:
            client.create_bucket(Bucket=name)
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


if __name__ == "__main__":
    make(sys.argv[1:])
