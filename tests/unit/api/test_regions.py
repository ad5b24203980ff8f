from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaud_provider.api.hosts import resolve_base_url
from plaud_provider.api.loopback import is_loopback
from plaud_provider.api.regions import Region
from plaud_provider.exceptions import PlaudConfigurationError

OWN = {
    Region.US: "https://openapi.plaud.ai",
    Region.EU: "https://openapi.plaud.eu",
    Region.JP: "https://openapi.plaud.jp",
}
HOSTS = {region: url.removeprefix("https://") for region, url in OWN.items()}


@pytest.mark.parametrize("region", Region)
@pytest.mark.parametrize("host", ["", None])
def test_without_a_host_requests_go_to_the_region_s_own(region: Region, host: str | None) -> None:
    assert resolve_base_url(region, host) == OWN[region]


@pytest.mark.parametrize("region", Region)
@pytest.mark.parametrize(
    "written",
    ["{}", "https://{}", "https://{}/", "HTTPS://{}", "{}:443", "https://{}:443", "{}.", "https://{}.:443//"],
)
def test_the_region_s_own_host_may_be_written_out(region: Region, written: str) -> None:
    """However it is written, it is one client: one token, one quota."""
    for host in (HOSTS[region], HOSTS[region].upper()):
        assert resolve_base_url(region, written.format(host)) == OWN[region]


@pytest.mark.parametrize("region", Region)
@pytest.mark.parametrize("other", Region)
@pytest.mark.parametrize(
    "written", ["{}", "https://{}", "https://{}:443/", "HTTPS://{}", "{}.", "https://{}./", "https://{}:8443"]
)
def test_another_region_s_host_is_refused_even_where_it_is_listed(
    region: Region, other: Region, written: str
) -> None:
    if region is other:
        return
    host = written.format(HOSTS[other])

    for name in (host, host.upper()):
        with pytest.raises(PlaudConfigurationError):
            resolve_base_url(region, name, allowed_hosts=[HOSTS[other], HOSTS[other] + ".", host, name])


@pytest.mark.parametrize(
    "host",
    [
        "http://openapi.plaud.eu",
        "ftp://openapi.plaud.eu",
        "ws://127.0.0.1",
        "file:///etc/passwd",
        "//openapi.plaud.ai",
        "http://gateway.example",
        "https://user@openapi.plaud.eu",
        "https://user:pass@openapi.plaud.eu",
        "openapi.plaud.eu@evil.com",
        "https://openapi.plaud.eu@evil.com",
        "https://openapi.plaud.eu:443@evil.com",
        "https://openapi.plaud.eu.evil.com",
        "https://openapi.plaud.eu..",
        "https:/openapi.plaud.eu",
        "https://https://openapi.plaud.eu",
        "https://openapi.plaud.eu/open/partner/ai/transcriptions/",
        "openapi.plaud.eu/oauth/partner",
        "https://openapi.plaud.eu/./",
        "https://evilopenapi.plaud.eu",
        "https://plaud.eu",
        "https://api.plaud.eu",
        "https://openapi.plaud.eu:8443",
        "https://openapi.plaud.eu:0",
        "https://openapi.plaud.eu:99999",
        "https://openapi.plaud.eu:x",
        "https://openapi.plaud.eu?x=1",
        "https://openapi.plaud.eu/?x=1",
        "https://openapi.plaud.eu#x",
        "https://openapi.plaud.eu/../..",
        "https://openapi.plaud.eu/%2e%2e/",
        "https://openapi.plaud.eu\\@evil.com",
        "https:\\\\openapi.plaud.eu",
        "https://openapi.plaud.eu\t.evil.com",
        "https://openapi.plaud.eu\n",
        "https://openapi.plaud.eu /x",
        "https://openapi.plaud.eu\x00.evil.com",
        "https://openapi.plaud.eu\x7f",
        "https://\u043epenapi.plaud.eu",
        "https://openapi。plaud。eu",
        "https://xn--penapi-yqf.plaud.eu",
        "https://openapi.plaud.eu%2eevil.com",
        "https://",
        "https:///path",
        "https://[::1",
        "https://[fe80::1]",
        "https://[fe80::1%25eth0]",
        "https://169.254.169.254",
        "169.254.169.254",
        "https://[::ffff:169.254.169.254]",
        "https://2852039166",
        "https://0xa9fea9fe",
        "https://0xa9.0xfe.0xa9.0xfe",
        "https://0251.0376.0251.0376",
        "https://169.254.43518",
        "http://2130706433",
        "http://0x7f000001",
        "http://0x7f.1",
        "http://127.1",
        "http://0177.0.0.1",
        "http://localhost..",
        "http://localhost.evil.com",
        "http://127.0.0.1.evil.com",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "https://10.0.0.1",
        "openapi.plaud.eu.evil.com",
        "evil.com/openapi.plaud.eu",
        "javascript:alert(1)",
        "a" * 5000,
    ],
)
def test_where_an_eu_request_may_not_go(host: str) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"Connection host: .*Nothing was sent") as caught:
        resolve_base_url(Region.EU, host)

    assert "pass" not in str(caught.value).replace("login and password", "").replace("etc/passwd", "")


@pytest.mark.parametrize(
    "name",
    [
        "169.254.169.254",
        "fe80::1",
        "::ffff:169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "0x7f.1",
    ],
)
def test_an_address_of_the_metadata_service_is_refused_even_where_it_is_listed(name: str) -> None:
    host = f"https://[{name}]" if ":" in name else f"https://{name}"

    with pytest.raises(PlaudConfigurationError):
        resolve_base_url(Region.EU, host, allowed_hosts=[name, host])


@pytest.mark.parametrize(
    "host",
    [
        "https://user:canary@[::1",
        "https://user:canary@host:99999",
        "https://user:canary@host:x",
        "https://us er:canary@host",
        "https://usér:canary@host",
        "user:canary@host",
        "https://host/?token=canary",
        "https://höst/?token=canary",
        "https://host:x/?token=canary",
    ],
)
def test_the_message_does_not_repeat_credentials(host: str) -> None:
    with pytest.raises(PlaudConfigurationError) as caught:
        resolve_base_url(Region.US, host)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("127.0.0.1", "http://127.0.0.1"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("localhost:1", "http://localhost:1"),
        ("LOCALHOST", "http://localhost"),
        ("localhost.:80", "http://localhost"),
        ("http://[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("[::1]", "http://[::1]"),
        ("http://127.0.0.1:8080/base/", "http://127.0.0.1:8080/base"),
    ],
)
def test_loopback_is_open_to_every_region_and_needs_no_tls(host: str, base_url: str) -> None:
    for region in Region:
        assert resolve_base_url(region, host) == base_url


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("gateway.corp.example", "https://gateway.corp.example"),
        ("https://Gateway.Corp.Example:8443/plaud/", "https://gateway.corp.example:8443/plaud"),
        ("10.1.2.3", "https://10.1.2.3"),
        ("https://[fd00::7]:443", "https://[fd00::7]"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("https://127.0.0.1:80", "https://127.0.0.1:80"),
        ("gateway.corp.example.", "https://gateway.corp.example"),
        ("https://[FD00:0:0::7]:443", "https://[fd00::7]"),
        ("https://[fd00::8]", "https://[fd00::8]"),
        *((f"{name}.example", f"https://{name}.example") for name in ("dot", "url", "port")),
    ],
)
def test_a_listed_gateway_may_receive_requests_over_https(host: str, base_url: str) -> None:
    listed = [" GATEWAY.corp.example ", "10.1.2.3", "fd00::7", "[fd00:0::8]"]
    listed += ["dot.example.", "https://url.example/plaud", "port.example:8443"]

    assert resolve_base_url(Region.JP, host, allowed_hosts=listed) == base_url


@pytest.mark.parametrize(
    "host", ["http://gateway.example", "https://sub.gateway.example", "gateway.example.."]
)
def test_a_listed_gateway_is_listed_by_its_exact_name_and_takes_https_only(host: str) -> None:
    with pytest.raises(PlaudConfigurationError):
        resolve_base_url(Region.JP, host, allowed_hosts=["gateway.example", "*.gateway.example", ".example"])


@pytest.mark.parametrize(
    "name",
    ["gateway..example", ".example", "a" * 64 + ".example", ".".join(["a" * 60] * 5), "-a.example", "a,b"],
)
def test_what_no_name_server_could_know_is_refused_even_where_it_is_listed(name: str) -> None:
    with pytest.raises(PlaudConfigurationError, match="is not a URL or host name"):
        resolve_base_url(Region.JP, name, allowed_hosts=[name])


@given(
    st.sampled_from(Region),
    st.text(max_size=40)
    | st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "https://", "http://", "HTTPS://", "//", "https:/"]),
        st.text("@:/\\.[]%?#x1", max_size=8),
        st.sampled_from([*HOSTS.values(), "127.0.0.1", "evil.com"]),
        st.text("@:/\\.[]%?#x1 ", max_size=8),
    ),
)
def test_whatever_the_host_says_requests_go_to_the_region_or_to_loopback(region: Region, host: str) -> None:
    try:
        resolved = urlsplit(resolve_base_url(region, host))
    except PlaudConfigurationError:
        return
    name = resolved.hostname or ""
    assert is_loopback(name) or (
        resolved.scheme == "https" and name == HOSTS[region] and resolved.port in (None, 443)
    )
    assert "@" not in resolved.netloc


@pytest.mark.parametrize(("word", "region"), [("us", Region.US), (" EU ", Region.EU), ("Jp", Region.JP)])
def test_a_region_is_named_in_any_case(word: str, region: Region) -> None:
    assert Region.parse(word) is region


@pytest.mark.parametrize("word", ["", "uk", "eu-central-1", "None"])
def test_another_region_s_name_is_refused_with_those_there_are(word: str) -> None:
    with pytest.raises(PlaudConfigurationError, match=r"region: .* use one of us, eu, jp"):
        Region.parse(word)
