"""The schemas say what the codec does, and the JavaScript reader of the document reads the golden vectors."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from factorstream import DecodeError, ForgetUser, Rating, RemoveItem, Unrate
from factorstream.codec import TYPES, decode

SCHEMAS = Path(__file__).parents[3] / "schemas"
GOLDEN = json.loads((SCHEMAS / "golden.json").read_text())
EVENTS = GOLDEN["events"]
CLASSES = dict(zip(TYPES, [Rating, Unrate, ForgetUser, RemoveItem], strict=True))

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the JavaScript reader cannot run")


def value_of(golden):
    return None if golden["value"] is None else golden["value"].encode()


@pytest.mark.parametrize("golden", [golden for golden in EVENTS if "event" in golden], ids=lambda golden: golden["value"][:60])
def test_readable_events_are_the_golden_ones(golden):
    fields = dict(golden["event"])
    event = CLASSES[fields.pop("type")](**fields)
    assert decode(value_of(golden), golden["record_timestamp_ms"]) == event


@pytest.mark.parametrize(
    "golden", [golden for golden in EVENTS if "reason" in golden], ids=lambda golden: str(golden["value"])[:60]
)
def test_unreadable_events_are_refused_for_the_golden_reasons(golden):
    with pytest.raises(DecodeError) as caught:
        decode(value_of(golden), golden["record_timestamp_ms"])
    assert caught.value.reason == golden["reason"]


@pytest.mark.parametrize(
    "golden", [golden for golden in EVENTS if golden["schema"]], ids=lambda golden: str(golden["value"])[:60]
)
def test_the_json_schema_says_what_the_codec_does(golden):
    schema = json.loads((SCHEMAS / "events.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    try:
        document = json.loads(golden["value"] or "not json", parse_constant=str)
    except json.JSONDecodeError:
        assert golden["reason"] in ("not_json", "null_value")
        return
    assert jsonschema.Draft202012Validator(schema).is_valid(document) == ("event" in golden)


def test_the_avro_schema_has_the_fields_of_the_json_schema():
    avro = json.loads((SCHEMAS / "events.avsc").read_text())
    schema = json.loads((SCHEMAS / "events.schema.json").read_text())
    fields = {field["name"]: field for field in avro["fields"]}
    described = {name for kind in schema["oneOf"] for name in kind["properties"]} | {*schema["properties"]}
    assert {*fields} == described
    assert fields["type"]["type"]["symbols"] == schema["properties"]["type"]["enum"]
    assert all(field["default"] is None and field["type"][0] == "null" for name, field in fields.items() if name != "type")


def javascript_reader(folder):
    """Write the document's JavaScript to *folder*; return the module's path."""
    (code,) = re.findall(r"```js\n(.*?)```", (SCHEMAS / "README.md").read_text(), re.DOTALL)
    module = folder / "reader.mjs"
    module.write_text(code)
    return module


@needs_node
def test_the_documents_javascript_reads_the_golden_embeddings(tmp_path):
    javascript_reader(tmp_path)
    (tmp_path / "main.mjs").write_text(
        """
        import { embedding, score } from "./reader.mjs";
        import { readFileSync } from "node:fs";
        const plain = (key, value) => (typeof value === "bigint" ? value.toString() : value);
        const read = JSON.parse(readFileSync(0)).map((hex) => embedding(Buffer.from(hex, "hex")));
        console.log(JSON.stringify({ read, score: score(3.5, read[0], read[1]) }, plain));
        """
    )
    golden = [golden for golden in GOLDEN["embeddings"] if golden["dtype"] == "float32"]
    hexes = json.dumps([row["bytes"] for row in golden])
    done = subprocess.run(["node", tmp_path / "main.mjs"], input=hexes, capture_output=True, text=True, check=True, timeout=30)
    answer = json.loads(done.stdout)
    for read, row in zip(answer["read"], golden, strict=True):
        assert read["numbers"] == row["augmented"]
        assert read["factors"] == row["vector"]
        assert (read["nRatings"], read["timestampMs"]) == (row["n_ratings"], row["timestamp_ms"])
        assert read["version"] == {"epoch": row["version"]["epoch"], "position": str(row["version"]["position"])}
    assert answer["score"] == 3.5 + sum(a * b for a, b in zip(golden[0]["augmented"], golden[1]["augmented"], strict=True))


@needs_node
def test_the_documents_javascript_refuses_what_it_does_not_know(tmp_path):
    javascript_reader(tmp_path)
    (golden,) = [golden for golden in GOLDEN["embeddings"] if golden["dtype"] == "int8"]
    program = f'import {{ embedding }} from "./reader.mjs"; embedding(Buffer.from("{golden["bytes"]}", "hex"));'
    (tmp_path / "main.mjs").write_text(program)
    done = subprocess.run(["node", tmp_path / "main.mjs"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "unknown layout or dtype" in done.stderr
