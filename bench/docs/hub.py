#!/usr/bin/env python3
"""A model hub on this machine: hub.py FOLDER writes its address to standard output and serves FOLDER/ORG/REPO/FILE.

It answers what `ditrun fetch` asks of a hub, when HF_ENDPOINT is the address.
"""

import hashlib
import http.server
import json
import os
import sys

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/api/models/"):
            self.describe(self.path.split("/")[3:5])
        else:
            super().do_GET()

    def describe(self, repo):
        try:
            names = sorted(os.listdir(os.path.join(self.directory, *repo)))
        except OSError:
            self.send_error(404)
            return
        files = [{"rfilename": n} for n in names]
        text = json.dumps({"sha": COMMIT, "cardData": {"license": "mit"}, "siblings": files})
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def translate_path(self, path):
        return super().translate_path(path.replace("/resolve/" + COMMIT, "", 1))

    def end_headers(self):
        try:
            with open(self.translate_path(self.path), "rb") as f:
                self.send_header("ETag", '"' + hashlib.sha256(f.read()).hexdigest() + '"')
        except OSError:
            pass
        super().end_headers()

    def log_message(self, *_):
        pass


def main():
    root = os.path.abspath(sys.argv[1])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Hub(*a, directory=root)) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
