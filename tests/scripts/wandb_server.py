"""A server of Weights & Biases that knows just enough to take runs, their files and their artifacts."""

import json
import re
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_DATE = "2026-01-01T00:00:00"
_ARTIFACT = {
    **{"state": "COMMITTED", "versionIndex": 0, "tags": [], "size": 1, "digest": "d", "fileCount": 1},
    **{"ttlDurationSeconds": -1, "ttlIsInherited": False, "createdAt": _DATE},
    **dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt")),
}


class WandbServer(ThreadingHTTPServer):
    """Keeps the variables of each GraphQL operation that it was asked for, and what was uploaded."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.uploads: dict[str, bytes] = {}

    def answer(self, given: dict[str, Any]) -> dict[str, Any]:
        """All that W&B's clients want to know after any operation; the id of an artifact is its name."""
        wanted, name = given.get("input") or {}, str(given.get("name")).partition(":")[0]
        project = {"id": "p", "internalId": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
        sequence = {"__typename": "ArtifactSequence", "name": name, "project": project}
        logged = [asked["input"] for asked in self.asked["CreateArtifact"]]
        kinds = {artifact["artifactCollectionName"]: {"name": artifact["artifactTypeName"]} for artifact in logged}
        artifact = {**_ARTIFACT, "id": name, "artifactSequence": sequence, "artifactType": kinds.get(name)}
        member = {"id": "m", "versionIndex": 0, "createdAt": _DATE, "aliases": [], "artifactCollection": sequence}
        found = {"artifact": artifact, "artifactCollectionMembership": {**member, "artifact": artifact}}
        nodes = [
            {"uploadUrl": f"{self.url}/{file['artifactID']}/{file['name']}", "storagePath": "", "artifact": {"id": "a"}}
            for file in wanted.get("artifactFiles", ())
        ]
        new = {"id": wanted.get("artifactCollectionName"), "state": "PENDING", "artifactSequence": {}}
        files = [{"name": file, "uploadUrl": f"{self.url}/{file}"} for file in given.get("files", ())]
        return {
            "viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
            "serverInfo": {"features": []},
            "upsertBucket": {"bucket": {"id": "r", "name": name, "config": "{}", "project": project}, "inserted": True},
            "createRunFiles": {"files": files},
            "createArtifact": {"artifact": new},
            "createArtifactManifest": {"artifactManifest": {"id": "m", "file": {"uploadUrl": f"{self.url}/manifest"}}},
            "createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}},
            "commitArtifact": {"artifact": {"id": given.get("artifactID"), "digest": "d"}},
            "useArtifact": {"artifact": artifact},
            "project": found if name in kinds else dict.fromkeys(found),
        }


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        content, answer = self.rfile.read(int(self.headers["Content-Length"])), {}
        if self.path == "/graphql":
            asked = json.loads(content)
            (operation,), given = (
                re.findall(r"(?:query|mutation)\s+(\w+)", asked["query"]),
                asked.get("variables") or {},
            )
            self.server.asked[operation].append(given)
            answer = {"data": self.server.answer(given)}
        self.server.uploads[self.path] = content
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        pass
