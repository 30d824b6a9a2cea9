"""A small real workload to trace: an HTTP server and a client on loopback, and a few commands.

Run by itself it does its work and ends. `make demo` traces it, as anybody can:
`kwire trace examples/web.py -c 'python3 examples/workload.py'`.
"""

import http.client
import http.server
import subprocess
import threading
import time

REQUESTS = 5


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every request with its own path."""

    def do_GET(self) -> None:
        """Send the path back."""
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet: the tracer shows what happens."""


def main() -> None:
    """Serve and fetch, then run the commands."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for number in range(REQUESTS):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
        connection.request("GET", f"/page/{number}")
        connection.getresponse().read()
        connection.close()
        time.sleep(0.02)
    server.shutdown()
    for command in (["uname", "-r"], ["ls", "/etc"], ["cat", "/proc/loadavg"]):
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
