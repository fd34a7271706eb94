"""Google's push service on this machine, for tests that fall back on it: it hands out tokens and counts messages."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


class Phones:
    """Runs as long as the block lasts; ``settings`` point a worker here."""

    def __init__(self, folder: Path) -> None:
        #: Messages by the device's token.
        self.pushed: Counter[str] = Counter()
        phones = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/token":
                    self._answer(
                        {"access_token": "fault-suite-access-token", "expires_in": 3600, "token_type": "Bearer"}
                    )
                else:
                    phones.pushed[json.loads(body)["message"]["token"]] += 1
                    self._answer({"name": "projects/faults/messages/1"})

            def _answer(self, value: object) -> None:
                text = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Not into the tests' output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account", "project_id": "faults", "private_key_id": "1", "private_key": pem.decode(),
            "client_email": "worker@faults.example", "token_uri": f"{url}/token",
        }  # fmt: skip
        key_file = folder / "service-account.json"
        key_file.write_text(json.dumps(account))
        self.settings = {
            "FCM_SERVICE_ACCOUNT_FILE": str(key_file),
            "FCM_BASE_URL": url,
            "FCM_TOKEN_URI": f"{url}/token",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="phones", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
