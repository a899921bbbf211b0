"""Encodes pictures from disk, and from a real S3 server (moto) through a proxy that throttles and drops connections:
both must give the same shards, byte for byte.

Usage: python3 bench/data/s3.py DITRUN VAE PICTURES   (needs moto[server], which installs boto3)

PICTURES is a class folder tree, VAE is what encode-latents takes. The proxy answers one request in eight with 503
SlowDown, cuts one answer in eight short, and closes one connection in sixteen.
"""
import filecmp
import http.client
import http.server
import logging
import os
import random
import shutil
import socketserver
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
counts = {"asked": 0, "throttled": 0, "cut": 0, "closed": 0}
lock = threading.Lock()
draw = random.Random(1)


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    port = 0

    def log_message(self, *a):
        pass

    def answer(self):
        with lock:
            counts["asked"] += 1
            fate = draw.random()
        if fate < 1 / 16:
            with lock:
                counts["closed"] += 1
            self.close_connection = True
            return
        if fate < 1 / 16 + 1 / 8:
            with lock:
                counts["throttled"] += 1
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self.send_response(503)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            return
        up = http.client.HTTPConnection("127.0.0.1", self.port)
        up.request(self.command, self.path, headers={k: v for k, v in self.headers.items()})
        r = up.getresponse()
        body = r.read()
        self.send_response(r.status)
        for k, v in r.getheaders():
            if k.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(k, v)
        length = r.getheader("Content-Length") or str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if fate < 1 / 16 + 2 / 8 and len(body) > 1:
            with lock:
                counts["cut"] += 1
            body = body[:len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    do_GET = do_HEAD = answer


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


def encode(ditrun, vae, data, out, env=None):
    start = time.perf_counter()
    subprocess.run([ditrun, "--quiet", "encode-latents", "--data", data, "--vae", vae, "--out", out,
                    "--image-size", "32"], check=True, env=dict(os.environ, **(env or {})))
    return time.perf_counter() - start


def main():
    ditrun, vae, pictures = sys.argv[1:]
    moto = ThreadedMotoServer(port=0)
    moto.start()
    host, Proxy.port = moto.get_host_and_port()
    proxy = Server(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    key = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{Proxy.port}", **key)
    s3.create_bucket(Bucket="sets")
    work = tempfile.mkdtemp()
    try:
        n = 0
        for root, _, names in os.walk(pictures):
            for name in names:
                p = os.path.join(root, name)
                s3.upload_file(p, "sets", "tree/" + os.path.relpath(p, pictures))
                n += 1
        archive = os.path.join(work, "set.tar")
        with tarfile.open(archive, "w") as t:
            for c in sorted(os.listdir(pictures)):
                for name in sorted(os.listdir(os.path.join(pictures, c))):
                    t.add(os.path.join(pictures, c, name), f"{c}/{name}")
        s3.upload_file(archive, "sets", "set.tar")
        env = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_address[1]}", "AWS_ACCESS_KEY_ID": "key",
               "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
               "XDG_CACHE_HOME": os.path.join(work, "cache")}
        for what, local in (("tree", pictures), ("set.tar", archive)):
            here, there = os.path.join(work, what + "-here"), os.path.join(work, what + "-there")
            encode(ditrun, vae, local, here)
            for k in counts:
                counts[k] = 0
            seconds = encode(ditrun, vae, f"s3://sets/{what}", there, env)
            shards = sorted(f for f in os.listdir(here) if f.endswith(".safetensors"))
            assert shards and shards == sorted(f for f in os.listdir(there) if f.endswith(".safetensors"))
            same = all(filecmp.cmp(os.path.join(here, f), os.path.join(there, f), shallow=False) for f in shards)
            print(f"{what}: {n} pictures in {seconds:.1f} s, requests: {counts}; "
                  f"shards {'equal' if same else 'DIFFER'}", flush=True)
            assert same
    finally:
        shutil.rmtree(work)
        moto.stop()


main()
