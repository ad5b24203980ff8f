"""
An S3 server whose buckets ``calls-<n>`` hold n recordings, listed in pages. A process of its own: what it
needs is not what the listing needs. Prints its port.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE = 1000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        total = int(url.path.strip("/").rpartition("-")[2])
        start = int(query.get("continuation-token", ["0"])[0])
        end = min(start + PAGE, total)
        body = "<?xml version='1.0'?><ListBucketResult>"
        if end < total:
            body += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{end}</NextContinuationToken>"
        for number in range(start, end):
            body += (
                f"<Contents><Key>2024/{number % 366:03}/call-{number:012}.wav</Key><Size>{number}</Size>"
                f"<ETag>&quot;{number:032x}&quot;</ETag><LastModified>2024-05-01T00:00:00.000Z</LastModified>"
                "</Contents>"
            )
        content = (body + "</ListBucketResult>").encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
