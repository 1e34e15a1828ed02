"""Bodies of the explanation of a signed request."""

import binascii
from base64 import b64decode
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from services.identity.api_keys.schemas import ApiKeyId
from services.identity.signatures.domain.request import is_host, target_of
from shared.http.fields import Input

MOST_CONTENT = 262_144
"""Bytes."""
_MOST_HEADERS = 16_384
_BASE64_LENGTH = (MOST_CONTENT + 2) // 3 * 4
_LAST = 7_258_118_400
"""The year 2200, in unix seconds."""


def _url(text: str) -> str:
    target_of(text)
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    if sum(len(name) + len(value.encode()) + 4 for name, value in headers.items()) > _MOST_HEADERS:
        raise ValueError(f"are longer than {_MOST_HEADERS} bytes together")
    hosts = [value for name, value in headers.items() if name.lower() == "host"]
    if len(hosts) > 1 or not all(is_host(host.strip(" \t")) for host in hosts):
        raise ValueError("must have one valid Host, or none")
    return headers


def _base64(text: str) -> str:
    try:
        content = b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("is not base64") from None
    if len(content) > MOST_CONTENT:
        raise ValueError(f"is longer than {MOST_CONTENT} bytes")
    return text


def _text(text: str) -> str:
    if len(text.encode()) > MOST_CONTENT:
        raise ValueError(f"is longer than {MOST_CONTENT} bytes")
    return text


Method = Annotated[str, StringConstraints(pattern=r"^[A-Za-z-]+$", max_length=20)]
Url = Annotated[str, StringConstraints(pattern=r'^[!-"$-~]+$', max_length=8192), AfterValidator(_url)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[!#-'*+.^_`|~0-9A-Za-z-]+$", max_length=256)]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$", max_length=_MOST_HEADERS)]


class SignedRequest(Input):
    """A signed request as it was sent, and the API key that it was sent with."""

    api_key_id: ApiKeyId = Field(description="the test key to check against; of your organisation")
    method: Method = Field(
        examples=["POST"], description="as it was sent: methods are case-sensitive, and most clients send get as GET"
    )
    url: Annotated[Url, Field(
        description="as it was sent, percent-encoded and without a fragment: the whole URL, or the path with its query "
        "(then https is assumed, and Host must be among the headers)",
        examples=["https://api.example.com/v1/contacts?limit=5"],
    )]  # fmt: skip
    headers: Annotated[dict[HeaderName, HeaderValue], AfterValidator(_headers)] = Field(
        max_length=100,
        description="by name, in any case; of a field of several lines the values joined by ', '. Host and Content-Length "
        "may be left out, and so should Authorization and Cookie unless they are signed",
        examples=[{"Signature-Input": "gdn=(…);created=…", "Signature": "gdn=:…:"}],
    )
    content: Annotated[str, AfterValidator(_text)] | None = Field(
        None, max_length=MOST_CONTENT, description="in UTF-8 at most 262,144 bytes"
    )
    content_base64: Annotated[str, AfterValidator(_base64)] | None = Field(
        None, max_length=_BASE64_LENGTH, description="instead of content, for bytes that are no text"
    )
    at: float | None = Field(
        None, ge=0, le=_LAST, description="when the gateway would have seen it, in unix seconds; default: now"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.content is not None and self.content_base64 is not None:
            raise ValueError("give content or content_base64, not both")
        if not target_of(self.url).host and "host" not in {name.lower() for name in self.headers}:
            raise ValueError("give a whole URL, or a Host among the headers")
        return self

    def body(self) -> bytes:
        """The content's bytes."""
        return b64decode(self.content_base64) if self.content_base64 is not None else (self.content or "").encode()


class SignatureComponent(BaseModel):
    """Something that a signature covers, or must."""

    name: str = Field(examples=["@path"])
    value: str | None = Field(description="what the request has; null: no such thing")
    covered: bool = Field(description="whether it stands in Signature-Input")
    required: bool
    problem: str | None = Field(description="what is wrong with it")


class SignatureParameter(BaseModel):
    """What a signature says of itself; of v0 the two fields."""

    name: str = Field(examples=["created"])
    value: str | int | None
    problem: str | None = Field(
        examples=["It was 412 s ago; 300 s are allowed. Sign each request anew, just before it is sent."]
    )


class SignedContent(BaseModel):
    """``Content-Digest``, beside the content that was given."""

    expected: str | None = Field(description="of the content; null without any, and for v0")
    found: str | None
    matches: bool | None = Field(description="null when there is nothing to compare")
    problem: str | None


class SignatureExplanation(BaseModel):
    """What the gateway would say of a signed request, and why."""

    valid: bool = Field(
        description="whether it would pass, if its nonce was not used before: that is not looked at. Of a signed "
        "request while signature_policy is off: whether its signature holds"
    )
    code: str | None = Field(
        description="that the gateway would answer with; hints begin with that fault", examples=["signature_mismatch"]
    )
    detail: str
    scheme: Literal["v1", "v0"]
    signature_base: str = Field(
        description="what must be signed; lines and parameters that are missing are added. Of v0 the first 20,000 characters"
    )
    components: list[SignatureComponent]
    content_digest: SignedContent
    parameters: list[SignatureParameter]
    hints: list[str] = Field(
        description="what to do: first about what code names, then what else was noticed",
        examples=[["Your signature matches if @path is percent-decoded; sign the raw path."]],
    )
