"""A folder behind an http server on loopback that counts what is asked for, and breaks connections on request."""

import contextlib
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Handler(SimpleHTTPRequestHandler):
    """Counts GET requests of files; the first ones of a file in `server.broken` stop half way."""

    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        name = self.path.rpartition('/')[2]
        if name:
            self.server.asked.append(name)
        if self.server.broken.get(name, 0):
            self.server.broken[name] -= 1
            outputfile.write(source.read()[:-10])
            outputfile.flush()
            self.connection.close()
            return
        super().copyfile(source, outputfile)


@contextlib.contextmanager
def served(folder):
    """The server, with its `url`, the names of files `asked` for so far, and `broken`: how often a file still fails."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(folder)))
    server.asked, server.broken = [], {}
    server.url = f'http://127.0.0.1:{server.server_address[1]}'
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
