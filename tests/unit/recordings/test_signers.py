"""Signers of all kinds: what they add is never shown, and what they sign anew is the same recording."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from plaud_provider.recordings.reference import AudioReference

# Each signer's URL, with what it puts in anew each time it signs: ``{word}`` for a secret that looks like a
# word, ``{hex}``, ``{sha256}`` and ``{b64}`` for signatures, ``{jwt}``, ``{uuid}``, and ``{end}``, epoch
# seconds.
SIGNERS = {
    "nginx secure_link": "https://files.example/calls/1.mp3?md5={b64}&expires={end}",
    "nginx, short names": "https://files.example/calls/1.mp3?st={b64}&e={end}",
    "nginx, other names": "https://files.example/calls/1.mp3?s={hex}&t={end}&sig={word}",
    "nginx in the path": "https://files.example/secure/{word}/{end}/calls/1.mp3",
    "hash and time in the path": "https://files.example/{hex}/{end}/calls/1.mp3",
    "time and hash in the path": "https://files.example/{end}/{hex}/calls/1.mp3",
    "lighttpd": "https://files.example/dl/{hex}/{hextime}/calls/1.mp3",
    "Oracle": "https://objectstorage.us-ashburn-1.oraclecloud.com/p/{word}/n/ns/b/calls/o/2024/1.mp3",
    "Oracle, real": "https://ns.objectstorage.eu.oci.customer-oci.com/p/{b64}/n/ns/b/calls/o/1.mp3",
    "Dropbox": "https://www.dropbox.com/scl/fi/x/1.mp3?rlkey={word}&st={word}&dl=1",
    "Zoom": "https://zoom.us/rec/download/abc?pwd={word}",
    "Zoom webhook": "https://zoom.us/rec/webhook_download/abc/def?access_token={jwt}",
    "Akamai 1": "https://files.example/calls/1.mp3?__gda__={end}_{hex}",
    "Akamai 2": "https://files.example/calls/1.mp3?hdnts=st=1~exp={end}~acl=/*~hmac={sha256}",
    "Akamai 2, hdnea": "https://files.example/calls/1.mp3?hdnea=exp={end}~acl=/calls/*~hmac={sha256}",
    "Akamai in the path": "https://files.example/exp={end}~acl=%2fcalls%2f*~hmac={sha256}/calls/1.mp3",
    "Slack": "https://files.slack.com/files-pri/T1-F2/download/call.mp3?t={word}",
    "Slack, real": "https://files.slack.com/files-pri/T1-F2/download/call.mp3?t=xoxe-{hex}",
    "Slack, public": "https://files.slack.com/files-pri/T1-F2/call.mp3?pub_secret={hex}",
    "token": "https://files.example/calls/1.mp3?token={word}",
    "token of a script": "https://pbx.example/recording.php?id=5&token={word}",
    "S3 v4": "https://b.s3.amazonaws.com/calls/1.mp3?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={word}"
    "%2F20240501%2Feu%2Fs3%2Faws4_request&X-Amz-Date=20240501T100000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host"
    "&X-Amz-Security-Token={b64}&X-Amz-Signature={sha256}&x-id=GetObject",
    "S3 v4, by the console": "https://b.s3.amazonaws.com/calls/1.mp3?response-content-disposition=inline"
    "&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Security-Token={b64}&X-Amz-Signature={sha256}",
    "S3 v2": "https://b.s3.amazonaws.com/calls/1.mp3?AWSAccessKeyId=AKIA{word}&Signature={b64}&Expires={end}",
    "MinIO, Wasabi": "https://s3.wasabisys.com/calls/1.mp3?X-Amz-Date=1&X-Amz-Signature={sha256}",
    "Google v4": "https://storage.googleapis.com/b/1.mp3?X-Goog-Credential={word}&X-Goog-Signature={sha256}",
    "Google v2": "https://storage.googleapis.com/b/1.mp3?GoogleAccessId={word}&Expires={end}&Signature={b64}",
    "Google Cloud CDN": "https://cdn.example/1.mp3?Expires={end}&KeyName=key&Signature={b64}",
    "Google Cloud CDN, prefix": "https://cdn.example/1.mp3?URLPrefix={b64}&Expires={end}&KeyName=k&Signature={b64}",
    "Google Media CDN": "https://cdn.example/edge-cache-token=Expires={end}&KeyName=k&Signature={b64}/calls/1.mp3",
    "Firebase": "https://firebasestorage.googleapis.com/v0/b/b/o/calls%2F1.mp3?alt=media&token={uuid}",
    "Azure": "https://a.blob.core.windows.net/c/1.mp3?sv=2024-11-04&st=2026-03-24T10%3A00%3A00Z&se=2026-03-24"
    "T11%3A00%3A00Z&sr=b&sp=r&sig={b64}%3D",
    "CloudFront": "https://d.cloudfront.net/1.mp3?Expires={end}&Signature={b64}&Key-Pair-Id=K{word}",
    "CloudFront, policy": "https://d.cloudfront.net/1.mp3?Policy={b64}&Signature={b64}&Key-Pair-Id=K{word}",
    "Cloudflare": "https://files.example/calls/1.mp3?verify={end}-{b64}%3D",
    "Cloudflare Stream": "https://customer-x.cloudflarestream.com/{jwt}/downloads/1.mp3",
    "Fastly": "https://files.example/calls/1.mp3?token={end}_{hex}",
    "Bunny": "https://calls.b-cdn.net/1.mp3?token={b64}&token_path=%2F&expires={end}",
    "Bunny in the path": "https://calls.b-cdn.net/bcdn_token={b64}&expires={end}&token_path=%2F/calls/1.mp3",
    "KeyCDN": "https://x.kxcdn.com/1.mp3?token={b64}&expire={end}",
    "imgix": "https://x.imgix.net/1.mp3?expires={end}&s={hex}",
    "CDN77": "https://x.cdn77.org/calls/1.mp3?secure={b64},{end}",
    "CDN77 in the path": "https://x.cdn77.org/{b64},{end}/calls/1.mp3",
    "Alibaba OSS v1": "https://b.oss.aliyuncs.com/1.mp3?OSSAccessKeyId={word}&Expires={end}&Signature={b64}",
    "Alibaba OSS v4": "https://b.oss.aliyuncs.com/1.mp3?x-oss-credential={word}&x-oss-signature={sha256}",
    "Alibaba CDN": "https://files.example/calls/1.mp3?auth_key={end}-0-0-{hex}",
    "Alibaba CDN in the path": "https://files.example/202405011000/{hex}/calls/1.mp3",
    "Tencent COS": "https://b.cos.ap.myqcloud.com/1.mp3?q-sign-algorithm=sha1&q-ak={word}&q-sign-time={end}"
    "%3B{end}&q-key-time={end}%3B{end}&q-header-list=host&q-url-param-list=&q-signature={hex}",
    "Tencent CDN": "https://files.example/calls/1.mp3?txSecret={hex}&txTime={hextime}",
    "Huawei OBS": "https://b.obs.example/1.mp3?AccessKeyId={word}&Expires={end}&Signature={b64}",
    "Backblaze": "https://f001.backblazeb2.com/file/calls/1.mp3?Authorization={end}_{hex}",
    "SharePoint": "https://x.sharepoint.com/_layouts/15/download.aspx?UniqueId=5a4d9c2e-77aa-4a3c-9d3b-1b2c3d4e5f60"
    "&Translate=false&tempauth=v1.{jwt}&ApiVersion=2.0",
    "Google Drive": "https://drive.google.com/uc?id=1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgvE2upms&export=download"
    "&at={b64}:{end}000",
    "Twilio, proxied": "https://x.example/Accounts/AC0123456789abcdef0123456789abcdef/Recordings/"
    "RE0123456789abcdef0123456789abcdef.mp3?sig={b64}",
    "JWT, whatever it is called": "https://files.example/calls/1.mp3?whatever={jwt}",
    "JWT in the path": "https://files.example/media/{jwt}/calls/1.mp3",
    "token in the path": "https://files.example/token/{word}/calls/1.mp3",
    "session in the path": "https://files.example/calls/1.mp3;jsessionid={word}",
    "hash, whatever it is called": "https://files.example/calls/1.mp3?w={hex}",
    "random, whatever it is called": "https://files.example/calls/1.mp3?w={b64}",
    "copied from a page's source": "https://files.example/calls/1.mp3?id=7&amp;expires={end}&amp;sig={word}",
    "EdgeCast": "https://files.example/calls/1.mp3?{sha256}",
    "Wowza": "https://files.example/calls/1.mp3?wowzatokenhash={word}&wowzatokenendtime={end}",
    "Vimeo": "https://files.example/calls/1.mp3?exp={end}~acl=%2Fcalls%2F*~hmac={word}",
    "Limelight": "https://files.example/calls/1.mp3?p=33&e={end}&h={word}",
    "Limelight, from when": "https://files.example/calls/1.mp3?p=33&e={end}&cf={end}&h={hex}",
    "HubSpot": "https://files.example/calls/1.mp3?hs_sig={b64}&hs_ts={end}",
    "Qiniu": "https://files.example/calls/1.mp3?e={end}&token=AK:{word}",
    "Upyun": "https://files.example/calls/1.mp3?_upt={hextime}{end}",
    "Tencent VOD": "https://files.example/calls/1.mp3?t={hextime}&us={word}&sign={hex}",
    "Huawei CDN": "https://files.example/calls/1.mp3?auth_info={word}&exper=0",
    "Baidu": "https://files.example/calls/1.mp3?authorization=bce-auth-v1/{word}/{end}/1800/host/{word}",
    "Alibaba, temporary": "https://b.example/1.mp3?Expires={end}&OSSAccessKeyId={word}&Signature={b64}"
    "&security-token={word}",
    "Supabase": "https://x.supabase.co/storage/v1/object/sign/calls/1.mp3?token={jwt}",
    "Kaltura": "https://files.example/p/1/ks/{word}/calls/1.mp3",
    "Cloudinary": "https://res.example/x/s--{hextime}--/v1/calls/1.mp3",
    "RingCentral": "https://media.example/restapi/v1.0/account/1/recording/RE0123456789abcdef0123456789abcdef.mp3"
    "?access_token={word}",
    "token and when it was made": "https://files.example/calls/1.mp3?token={word}&t={end}",
    "token of a script and when it was made": "https://pbx.example/recording.php?id=5&key={word}&ts={end}",
    "password": "https://files.example/calls/1.mp3?password={word}&user=me",
    "Five9": "https://app.five9.com/recordings/1.mp3?sessionId={hex}",
    "Synology": "https://nas.example/webapi/entry.cgi?method=download&path=%2Fcalls%2F1.mp3&_sid={b64}",
    "SharePoint, by request": "https://x.sharepoint.com/_layouts/15/download.aspx?UniqueId=5a4d9c2e-77aa-4a3c-9d3b"
    "-1b2c3d4e5f60&tempauth={jwt}&correlationid={uuid}",
    "Google Drive, confirmed": "https://drive.usercontent.google.com/download?id=1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs7"
    "&export=download&confirm=t&uuid={uuid}&at={b64}:{end}",
    "iCloud": "https://cvws.icloud-content.com/B/AV0/1.mp3?o={b64}&v=1&x=3&a={b64}&e={end}&r={uuid}-1&k={b64}"
    "&ckc=com.apple.clouddocs&ckz=com.apple.CloudDocs&p=61&s={b64}",
    "ownCloud": "https://cloud.example/dav/files/me/1.mp3?OC-Credential=me&OC-Date={hextime}&OC-Expires=1200"
    "&OC-Verb=GET&OC-Signature={sha256}",
    "Zoom, its files": "https://ssrweb.zoom.us/replay/1.mp3?data={sha256}&cid=aw1&fid={b64}&tid=v%3D2.0%3Brid%3D{hex}"
    "&Expires={end}&Signature={b64}&Key-Pair-Id=APK{word}&Policy={b64}",
    "Webex": "https://x.webex.com/nbr/Download?siteid=1&recordid=1&id=5&ticket={b64}&timestamp={end}&RCID={hex}",
    "Discord": "https://cdn.discordapp.com/attachments/1/1.mp3?ex={hextime}&is={hextime}&hm={sha256}&",
    "Facebook": "https://scontent.fbcdn.net/v/1.mp3?_nc_cat=1&_nc_ohc={b64}&oh=03_{b64}&oe={hextime}",
    "WhatsApp": "https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=12&id=5&ext={end}&hash={b64}",
    "Wangsu": "https://files.example/calls/1.mp3?wsSecret={hex}&wsABSTime={hextime}",
    "valid from and to": "https://files.example/calls/1.mp3?valid_from={end}&valid_to={end}&h={b64}",
    "with a random id of the request": "https://pbx.example/rec.php?id=5&requestId={uuid}&token={b64}",
    "with the id of a trace": "https://files.example/calls/1.mp3?x-request-id={uuid}&sig={b64}",
    "with the state of a sign-in": "https://files.example/calls/1.mp3?state={uuid}",
    "time of a signature": "https://files.example/download?file=calls%2F1.mp3&hash={sha256}&time={end}",
    "WordPress": "https://files.example/calls/1.mp3?_wpnonce={hextime}10",
    "jQuery": "https://files.example/calls/1.mp3?_={end}000&token={b64}",
    "random number": "https://files.example/calls/1.mp3?rand=0.{end}&token={b64}",
    "Wangsu, with a session": "https://files.example/calls/1.mp3?wsSession={hextime}-{end}&wsSecret={hex}",
    "Telegram": "https://api.telegram.org/file/bot123456789:{b64}/voice/1.mp3",
    "nginx, MD5 in the path": "https://files.example/s/{md5}/{end}/1.mp3",
    "lower case and digits": "https://files.example/calls/1.mp3?w={base36}",
    "Medianova": "https://files.example/calls/1.mp3?mnsec={hex}&mnexp={end}",
    "brackets in names": "https://files.example/calls/1.mp3?auth[sig]={hex}&auth[exp]={end}",
    "UCloud": "https://files.example/calls/1.mp3?UCloudPublicKey={word}&Signature={b64}&Expires={end}",
    "Alfresco": "https://files.example/store/calls/1.mp3?alf_ticket=TICKET_{hex}",
    "CAS": "https://files.example/calls/1.mp3?ticket=ST-{end}-{word}-cas01",
    "Bandwidth": "https://voice.example/api/v2/accounts/5/calls/c-6/recordings/r-1/media?token={b64}",
    "Megaphone": "https://files.example/1.mp3?request_event_id={uuid}&timetoken={end}_{hex}",
    "8x8": "https://files.example/storage/objects/1/content.mp3?token={jwt}&x-8x8-trace={uuid}",
    "OAuth 1": "https://files.example/1.mp3?oauth_consumer_key={word}&oauth_nonce={hex}&oauth_signature={b64}%3D"
    "&oauth_signature_method=HMAC-SHA1&oauth_timestamp={end}&oauth_token={word}&oauth_version=1.0",
    "names of an own kind": "https://files.example/calls/1.mp3?x-acme-sig={word}&x-acme-ts={end}",
    "two parts of a path": "https://files.example/sig={hex}/exp={end}/calls/1.mp3",
    "time and hash in one": "https://files.example/calls/1.mp3?t={end}-{hex}",
    "hash and time in one": "https://files.example/calls/1.mp3?h={hex}:{end}",
    "of what redirects": "https://proxy.example/fetch?url=https%3A%2F%2Fb.s3.amazonaws.com%2Fcalls%2F1.mp3%3F"
    "X-Amz-Date%3D20260101T000000Z%26X-Amz-Signature%3D{sha256}",
    "of what redirects, signed as well": "https://proxy.example/fetch?token={word}&src=https%3A%2F%2Fa.blob.core."
    "windows.net%2Fc%2F1.mp3%3Fsv%3D2024-11-04%26sig%3D{b64}%26se%3D2026-03-24",
    "of what redirects, not encoded": "https://proxy.example/fetch?url=https://files.example/calls/1.mp3?Expires={end}"
    "&Signature={b64}&Key-Pair-Id=K{word}",
    "of a path in a path": "https://proxy.example/unsafe/https%3A%2F%2Fb.s3.amazonaws.com%2Fcalls%2F1.mp3%3F"
    "X-Amz-Signature%3D{sha256}",
    "SharePoint, converted": "https://x.svc.ms/transform/audio?provider=spo&inputFormat=mp4&docid=https%3A%2F%2F"
    "x.sharepoint.com%2F_api%2Fv2.0%2Fdrives%2Fb!x%2Fitems%2F01ABCD%3Fversion%3DPublished%26tempauth%3D{jwt}",
    "Moodle": "https://moodle.example/tokenpluginfile.php/{hex}/123/mod_resource/content/1/1.mp3",
    "Filestack": "https://cdn.filestackcontent.com/security=policy:{b64},signature:{sha256}/01ABCDeFgHiJkLmNoPqR",
    "Panopto": "https://x.panopto.com/Panopto/Podcast/Download/1.mp3?mediaTargetType=audioPodcast&invocationId={uuid}",
    "Bitrix24": "https://x.bitrix24.com/disk/1.mp3?AUTH_ID={b64}",
    "in a folder of its own": "https://files.example/1.mp3/recording.mp3?token={word}",
}
WORDS = "SECRET HIDDEN CANARY GEHEIM ABCDEF".split()  # noqa: SIM905


def signed(template: str, seed: int) -> tuple[str, list[str]]:
    """Return a URL as a signer makes it, and the secrets that it has put in."""
    drawn = random.Random(seed)
    end = drawn.randrange(1_890_000_000, 1_990_000_000)
    claims = json.dumps({"exp": end, "sub": drawn.randbytes(6).hex()}).encode()
    secrets = {
        "word": WORDS[seed % len(WORDS)] + str(seed) * (seed % 3),
        "hex": hashlib.md5(drawn.randbytes(8)).hexdigest(),
        "sha256": drawn.randbytes(32).hex(),
        "b64": base64.urlsafe_b64encode(drawn.randbytes(24)).decode(),
        "md5": base64.urlsafe_b64encode(drawn.randbytes(16)).decode().rstrip("="),
        "base36": "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=48)),
        "uuid": str(uuid.UUID(bytes=drawn.randbytes(16))),
        "jwt": ".".join(
            base64.urlsafe_b64encode(part).decode().rstrip("=")
            for part in (b'{"alg":"HS256"}', claims, drawn.randbytes(32))
        ),
    }
    url = template.format(**secrets, end=end, hextime=f"{end:x}")
    return url, [secret for name, secret in secrets.items() if f"{{{name}}}" in template]


signers = pytest.mark.parametrize("template", SIGNERS.values(), ids=SIGNERS)


@signers
def test_what_is_signed_anew_is_the_same_recording(template: str) -> None:
    identities = {AudioReference(signed(template, seed)[0]).identity for seed in range(40)}

    assert len(identities) == 1, sorted(identities)[:2]


@signers
def test_a_signature_is_not_shown(template: str) -> None:
    for seed in range(40):
        url, secrets = signed(template, seed)
        shown = f"{AudioReference(url)} {AudioReference(url)!r} {AudioReference(url).serialize()}"
        assert [secret for secret in secrets if secret in shown] == []
        assert "?" not in shown


@signers
def test_another_recording_of_the_same_signer_is_another_one(template: str) -> None:
    """To take two recordings for one would lose the second."""
    others = {"1.mp3": "2.mp3", "call.mp3": "memo.mp3", "/abc": "/abd", "id=5": "id=6", "id=1Bx": "id=1Cx"}
    others |= {
        "/r-1/": "/r-2/",
        "01ABCD": "01ABCE",
        "objects/1/": "objects/2/",
        "5a4d9c2e": "5a4d9c2f",
        "RE0123456789abcdef0123456789abcdef.mp3": "RE" + "f" * 32 + ".mp3",
    }
    [changed] = {template.replace(*pair) for pair in others.items()} - {template}

    assert AudioReference(signed(changed, 1)[0]).identity != AudioReference(signed(template, 1)[0]).identity


@pytest.mark.parametrize(
    "other",
    [
        "&x-id=GetObject",
        "&dl=1",
        "&download=true",
        "&raw=1",
        "&inline",
        "&utm_source=mail&utm_medium=link",
        "&usp=sharing",
    ],
)
@pytest.mark.parametrize("query", ["", "X-Amz-Signature=abcdef123", "token=abcdef", "rlkey=abcdef"])
def test_how_a_link_hands_out_what_it_names_makes_no_other_recording(query: str, other: str) -> None:
    one, same = (
        AudioReference(f"https://files.example/calls/1.mp3?{text}") for text in (query, query + other)
    )

    assert one.identity == same.identity


DIFFERENT: list[Callable[[Any], str]] = [
    # Parameters that name a recording, beside a signature and without one.
    "https://pbx.example/recording.php?id={}".format,
    "https://pbx.example/recording.php?id={}&token=abcdef".format,
    "https://pbx.example/recording.php?token=abcdef&file={}.mp3".format,
    "https://pbx.example/recording.php?expires=1900000000&sig=abcdef&name=call%20{}".format,
    "https://files.example/calls/1.mp3?v={}".format,
    "https://files.example/calls/1.mp3?v={}&token=abcdef".format,
    "https://files.example/calls/1.mp3?versionId={}&X-Amz-Signature=abcdef".format,
    "https://files.example/calls/1.mp3?part={}&md5=abcdef&expires=1900000000".format,
    "https://pbx.example/get?ext=100&time=170000000{}".format,
    "https://pbx.example/get?uniqueid=170000000{}.123&token=abcdef".format,
    "https://pbx.example/play?s={}&e=7".format,
    "https://files.example/get?bucket=calls&key=2024/{}.mp3&token=abcdef".format,
    "https://files.example/calls/1.mp3?channel={}".format,
    "https://files.example/calls/1.mp3?t={}".format,
    "https://files.example/calls/1.mp3?lang=a{}".format,
    "https://drive.example/uc?id=1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgvE2up{}&export=download".format,
    lambda n: f"https://files.example/download?hash={hashlib.md5(str(n).encode()).hexdigest()}",
    lambda n: f"https://files.example/a.mp3?rev={hashlib.sha1(str(n).encode()).hexdigest()}&token=abcdef",
    lambda n: f"https://files.example/get?fileId={uuid.UUID(int=n)}&access_token=abcdef",
    # A token is the name where nothing else is.
    "https://files.example/download?token=abcdef{}".format,
    "https://files.example/api/v1/getRecording?key=abcdef{}".format,
    "https://files.example/recordings?t=abcdef{}&dl=1".format,
    "https://files.example/download?client_id=7&token=abcdef{}".format,
    "https://files.example/accounts/42/recordings/download?token=abcdef{}".format,
    "https://files.example/recordings/{}/download?token=abcdef".format,
    "https://files.example/rooms/42/audio?session=abcdef{}".format,
    "https://files.example/play?{}".format,
    "https://pbx.example/play?exten=100&ts=170000000{}&token=abcdef".format,
    "https://files.example/play?a{}.mp3".format,
    "https://files.example/download.php?hash=abcdef{}&format=mp3".format,
    lambda n: f"https://files.example/d/eyJhbGciOiJIUzI1NiJ9.eyJmaWxlIjoi{n}.abcdef",
    lambda n: f"https://files.example/download?token=eyJhbGciOiJIUzI1NiJ9.eyJmaWxlIjoi{n}.abcdef",
    "https://files.example/download?ticket=ABC-{}-DEF".format,
    "https://files.example/recording.mp3?ticket=ABC-{}-DEF".format,
    "https://files.example/api/v2/recordings/download?token=abcdef{}".format,
    "https://files.example/files/v1.{}/download?token=abcdef".format,
    "https://files.example/calls/c-{}/recordings/latest?token=abcdef".format,
    "https://files.example/calls/1.mp3?trace=1&leg={}".format,
    # So is it of a file that is called as all are.
    "https://files.example/recording.mp3?code=ABC-{}-XYZ".format,
    "https://files.example/calls/audio.mp3?token=abcdef{}".format,
    "https://files.example/calls/call-17{}/recording.mp3?token=abcdef".format,
    lambda n: f"https://files.example/{hashlib.md5(str(n).encode()).hexdigest()}/190000000{n}/audio.mp3",
    "https://files.example/attachments/token/ABCDEF{}/?name=call.mp3".format,
    "https://files.example/download/?oid=00D&ids=0681t00000AbCd{}&d=%2Fa%2FAbC123def456GHI789jk".format,
    "https://files.example/download?requestId=abcdef{}".format,
    lambda n: (
        f"https://files.example/2/meetings/{random.Random(n).randbytes(40).hex()}Ab1/recordings/"
        f"{base64.urlsafe_b64encode(random.Random(n).randbytes(60)).decode()}/content"
    ),
    # What is signed once for ever names an attachment, and two may be called alike.
    lambda n: (
        "https://app.example/rails/active_storage/blobs/redirect/"
        f"eyJf{base64.b64encode(str(n).encode() * 50).decode()}"
        f"--{hashlib.sha1(str(n).encode()).hexdigest()}/interview.mp3"
    ),
    # However long what is before a name, others may be called the same.
    lambda n: (
        "https://public.dm.files.1drv.com/y4m"
        f"{base64.urlsafe_b64encode(random.Random(n).randbytes(60)).decode()}/Voice%20001.m4a?download"
    ),
    "https://api.telegram.org/file/bot12345678{}:AbCdEfGhIjKlMnOpQrStUvWxYz/voice/file_1.oga".format,
    "https://x.zendesk.com/attachments/token/AbCd12EfGh34IjK{}/?name=Anna.mp3".format,
    "https://www.google.com/url?q=https%3A%2F%2Ffiles.example%2Fcalls%2F{}.mp3%3FSignature%3Dabcdef&sa=D".format,
    # Ids of conversations look like secrets.
    lambda n: f"https://files.example/rec.php?sid=1&conversation={hashlib.md5(str(n).encode()).hexdigest()}",
    lambda n: f"https://files.example/a.mp3?interaction={hashlib.md5(str(n).encode()).hexdigest()}",
    "https://files.example/play?sessionId=abcdef{}".format,
    "https://site.example/?download={}&raw=1".format,
    "https://site.example/recording.php?download=1&raw={}".format,
    "https://files.example/calls/1.mp3?download=other-{}.mp3".format,
    # Paths.
    lambda n: f"https://files.example/{hashlib.md5(str(n).encode()).hexdigest()}.mp3?token=abcdef",
    lambda n: f"https://files.example/calls/{hashlib.sha256(str(n).encode()).hexdigest()}?token=abcdef",
    lambda n: f"https://files.example/{hashlib.md5(str(n).encode()).hexdigest()}/1.mp3",
    lambda n: f"https://files.example/{hashlib.md5(str(n).encode()).hexdigest()}/1700000000.mp3",
    lambda n: f"https://files.example/1700000000/{hashlib.md5(str(n).encode()).hexdigest()}",
    lambda n: (
        f"https://files.example/{base64.urlsafe_b64encode(random.Random(n).randbytes(24)).decode()}/1.mp3"
    ),
    lambda n: (
        f"https://zoom.us/rec/share/{base64.urlsafe_b64encode(random.Random(n).randbytes(48)).decode()}"
    ),
    "https://files.example/170000000{}/1.mp3".format,
    "https://files.example/calls/{}/audio?token=abcdef".format,
    "https://files.example/alice/170000000{}/1.mp3".format,
    lambda n: f"https://files.example/private/{'abcdefgh'[n - 1] * 6}/1700000000/1.mp3",
    "https://files.example/s/{}/1.mp3".format,
    "https://files.example/p/{}/n/1.mp3".format,
]


@pytest.mark.parametrize("url", DIFFERENT, ids=[url(1) for url in DIFFERENT])
def test_different_recordings_are_not_taken_for_one(url: Callable[[Any], str]) -> None:
    identities = {AudioReference(url(number)).identity for number in range(1, 9)}

    assert len(identities) == 8


def encoded(said: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode()


def jwt(seed: int, recording: int) -> str:
    claims = {"sub": f"recording-{recording}", "exp": 1_900_000_000 + seed, "iat": 1_800_000_000 + seed}
    parts = [encoded({"alg": "RS256", "typ": "JWT"}), encoded(claims), encoded([seed] * 20)]
    return ".".join(part.rstrip("=") for part in parts)


def rails(seed: int, recording: int, **more: Any) -> str:
    purpose = {"exp": f"20{30 + seed}-10-22T16:49:40.051Z", "pur": "blob_key"}
    data = {"data": {"key": f"{recording}ln03r6w5nw7h3xp3d9l1jsxi5yh", "disposition": "inline"}}
    return f"{encoded({'_rails': {**data, **purpose}})}--{hashlib.sha1(bytes(seed)).hexdigest()}"


def rails_before_7_1(seed: int, recording: int) -> str:
    message = base64.b64encode(b'\x04\b{\bI:\bkeyI"!ln03r6w5nw7h3xp3d9l1jsxi5yh' + bytes([recording]))
    said = {"message": message.decode(), "exp": f"20{30 + seed}-10-22T16:49:40.051Z", "pur": "blob_key"}
    return f"{encoded({'_rails': said})}--{hashlib.sha1(bytes(seed)).hexdigest()}".replace("=", "%3D")


def itsdangerous(seed: int, recording: int) -> str:
    moment = base64.urlsafe_b64encode((1_900_000_000 + seed).to_bytes(4)).decode().rstrip("=")
    signature = base64.urlsafe_b64encode(hashlib.sha1(bytes(seed)).digest()).decode().rstrip("=")
    return f"{encoded({'recording': recording}).rstrip('=')}.{moment}.{signature}"


def django(seed: int, recording: int) -> str:
    return itsdangerous(seed, recording).replace(".", ":")


@pytest.mark.parametrize(
    ("signer", "place"),
    [
        (jwt, "https://files.example/download?token={}"),
        (jwt, "https://customer-x.cloudflarestream.com/{}/downloads/default.mp4"),
        (rails, "https://app.example/rails/active_storage/disk/{}/voice.mp3"),
        (rails, "https://app.example/rails/active_storage/blobs/redirect/{}/voice.mp3"),
        (rails_before_7_1, "https://app.example/rails/active_storage/disk/{}/voice.mp3?disposition=inline"),
        (itsdangerous, "https://files.example/download/{}"),
        (django, "https://files.example/download?t={}"),
    ],
)
def test_a_token_that_says_what_it_is_for_is_as_good_as_a_name(
    signer: Callable[[int, int], str], place: str
) -> None:
    def identity(seed: int, recording: int) -> str:
        return AudioReference(place.format(signer(seed, recording))).identity

    assert len({identity(seed, 1) for seed in range(1, 21)}) == 1
    assert len({identity(1, recording) for recording in range(1, 21)}) == 20


def test_a_token_that_says_nothing_else_than_when_it_ends_counts_whole() -> None:
    tokens = [f"{encoded({'alg': 'none'})}.{encoded({'exp': n})}.{'a' * 40}".replace("=", "") for n in (1, 2)]

    one, other = (AudioReference(f"https://files.example/download?token={token}") for token in tokens)

    assert one.identity != other.identity


@pytest.mark.parametrize(
    "path",
    [
        "calls/1.mp3",
        "calls/5a4d9c2e-77aa-4a3c-9d3b-1b2c3d4e5f60.mp3",
        "calls/5a4d9c2e-77aa-4a3c-9d3b-1b2c3d4e5f60",
        "calls/9e107d9d372bb6826bd81d3542a419d6.wav",
        "9e107d9d372bb6826bd81d3542a419d6/calls/d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592",
        "blobs/n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg.m4a",
        "Accounts/AC0123456789abcdef0123456789abcdef/Recordings/RE0123456789abcdef0123456789abcdef",
        "2024-05-01/Interview%20with%20Anna%20Schmidt%20(final%20v2).m4a",
        "customer_support-call-2024-05-01-14-30-agent42.mp3",
        "archive/20240501/14/1714573800.123456.wav",
        "q-600-0015551234567-20240501-101500-1714558500.1234",
        "call20240501at1015ext100/IMG20240501WA0001/meetingRecordingTeamSyncQ2Planning2024",
        "secure/calls/1.mp3",
        "p/podcasts/n/1.mp3",
        "s/season-2/e/7.mp3",
    ],
)
def test_what_names_a_file_is_shown(path: str) -> None:
    assert AudioReference(f"https://files.example/{path}?token=1").uri == f"https://files.example/{path}"


@pytest.mark.parametrize(
    "path",
    [
        "d/1/{b64}/download",
        "rec/share/{b64}{b64}",
        "cd/0/get/{b64}/file",
        "file/d/{b64}/view",
        "{jwt}",
        "shared/static/{hex}.mp3",
        "u/s!{b64}",
        ":u:/g/personal/me/E{word}{hextime}",
        "T1AB-F2CD-{hex}",
        "v3/u/38/38/{end}000/{md5}/{b64}{b64}/{b64}",
        "auth/{word}{hextime}/1.mp3",
        "media/v1.{jwt}",
        "seafhttp/files/{uuid}/call.mp3",
        "attachments/token/{b64}/call.mp3",
        "rails/active_storage/blobs/redirect/{b64}--{hex}{hex}/call.mp3",
    ],
)
def test_a_secret_in_a_path_that_names_what_it_gives_is_not_shown_but_counts(path: str) -> None:
    urls = [signed(f"https://files.example/{path}", seed) for seed in range(40)]

    for url, secrets in urls:
        assert [secret for secret in secrets if secret in AudioReference(url).uri] == []
    assert len({AudioReference(url).identity for url, _ in urls}) == 40


# What counts can be named


def test_a_user_names_the_parameters_that_count() -> None:
    def identified(query: str) -> str:
        return AudioReference(f"https://pbx.example/get.php?{query}").identified_by(["call", "token"])

    assert identified("call=5&token=one&leg=2") == identified("leg=3&CALL=5&token=one").replace(
        "CALL", "call"
    )
    assert identified("call=5&token=one") != identified("call=6&token=one")
    assert identified("call=5&token=one") != identified("call=5&token=two")


def test_a_user_says_that_no_parameter_counts() -> None:
    one, other = (AudioReference(f"https://x.example/download/1?w={n}") for n in (1, 2))

    assert one.identity != other.identity
    assert one.identified_by([]) == other.identified_by([]) == "https://x.example/download/1"


def test_a_storage_reference_has_no_parameters() -> None:
    assert AudioReference("s3://calls/a?id=1.mp3").identified_by([]) == "s3://calls/a?id=1.mp3"
