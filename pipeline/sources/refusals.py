"""What S3 says when it refuses, as one sentence with the way out."""

from urllib.parse import urlsplit

from pipeline.errors import DataError, HounsfieldError, MissingError
from pipeline.sources.keys import Prefix

BY_CODE: dict[str, tuple[type[HounsfieldError], str, str]] = {
    "NoSuchBucket": (DataError, "there is no bucket '{bucket}'", "see that its name is right"),
    "AccessDenied": (
        DataError,
        "these credentials may not read {url}",
        "ask for s3:ListBucket and s3:GetObject on it, or set AWS_PROFILE to who has them",
    ),
    "ExpiredToken": (MissingError, "the AWS credentials have expired", "sign in again, and run again"),
    "InvalidAccessKeyId": (
        MissingError,
        "S3 does not know the AWS access key",
        "see to AWS_ACCESS_KEY_ID or AWS_PROFILE, and to AWS_ENDPOINT_URL if the bucket is not at AWS",
    ),
    "SignatureDoesNotMatch": (
        MissingError,
        "the AWS secret key does not belong to the access key",
        "see to AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    ),
    "PermanentRedirect": (
        MissingError,
        "the bucket '{bucket}' is in another region",
        "set AWS_REGION to the region of the bucket",
    ),
}
SAME_AS = {
    "403": "AccessDenied",
    "Forbidden": "AccessDenied",
    "AllAccessDisabled": "AccessDenied",
    "404": "NoSuchBucket",
    "ExpiredTokenException": "ExpiredToken",
    "InvalidToken": "ExpiredToken",
    "AuthorizationHeaderMalformed": "PermanentRedirect",
    "301": "PermanentRedirect",
}


def explain(error: Exception, prefix: Prefix, name: str = "", *, endpoint: str = "") -> HounsfieldError:
    """The error to raise in place of one of boto3's.

    Args:
        error: of boto3, or of the network below it.
        prefix: what was to be read.
        name: the object of it that was; '': all.
        endpoint: the URL of the server that was asked, as far as one was.
    """
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return _by_code(error.response.get("Error", {}), prefix, name)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return MissingError(
            f"there are no AWS credentials to read {prefix.url} with",
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY",
        )
    if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        return MissingError(
            f"the S3 server {_host(endpoint)} cannot be reached",
            "see to the network, and to AWS_ENDPOINT_URL if the bucket is not at AWS",
        )
    if isinstance(error, ValueError) and "endpoint" in str(error).lower():
        return MissingError("AWS_ENDPOINT_URL is no URL", "write it as http://HOST:PORT, or unset it")
    sentence = " ".join(str(error).split()).rstrip(".")
    return MissingError(
        f"{prefix.url} cannot be read ({sentence})", "see to the AWS settings and credentials that it names"
    )


def _by_code(said: dict[str, str], prefix: Prefix, name: str) -> HounsfieldError:
    url = f"s3://{prefix.bucket}/{prefix.folder}{name}"
    code = said.get("Code", "")
    known = BY_CODE.get(SAME_AS.get(code, code))
    if known is None:
        sentence = said.get("Message", "").rstrip(".")
        return DataError(f"S3 refuses to read {url} ({code}: {sentence})", "see to what it says")
    kind, reason, remedy = known
    return kind(reason.format(bucket=prefix.bucket, url=url), remedy)


def _host(endpoint: str) -> str:
    """Without a name and password that the URL may hold."""
    parts = urlsplit(endpoint)
    return parts.netloc.rpartition("@")[2] or "of AWS"
