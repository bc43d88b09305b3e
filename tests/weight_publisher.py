"""A publisher of weights on 127.0.0.1, in place of those in `keras_nin.models.downloads`."""

import dataclasses
import hashlib
import http.server
import threading

from keras_nin.models import downloads


class Publisher:
    """A server whose `files` are bytes by name; a name in `cut` is announced whole and sent in half."""

    def __init__(self, monkeypatch, cache):
        self.files, self.cut, self.requests, self.cache = {}, set(), [], cache / "models"
        self._monkeypatch = monkeypatch
        cache.mkdir()
        monkeypatch.setenv("KERAS_HOME", str(cache))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        publisher = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rpartition("/")[2]
                publisher.requests.append(name)
                content = publisher.files.get(name)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write((content or b"")[: len(content) // 2 if name in publisher.cut else None])

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        """Stop to answer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def offer(self, model, content, weights="imagenet"):
        """Serve `content` as the declared file of a model's weights; return its declaration with our host and hash."""
        declared = downloads.DOWNLOADS[model, weights]
        algorithm, digits = declared.algorithm, len(declared.hash)
        row = dataclasses.replace(
            declared,
            url=f"http://127.0.0.1:{self._server.server_port}/models/{declared.file_name}",
            hash=hashlib.new(algorithm, content).hexdigest()[:digits],
        )
        self.files[row.file_name] = content
        self._monkeypatch.setitem(downloads.DOWNLOADS, (model, weights), row)
        return row
