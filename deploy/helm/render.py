#!/usr/bin/env python3
"""Renders the chart with Helm's engine (the package helm-python-sdk), as `helm template` does, for
the default values and for others, into a directory. Findings of `helm lint` are errors."""

import json
import pathlib
import sys

import helm_python

CHART = pathlib.Path(__file__).parent / "sealgate"
VARIANTS = {
    "default": {},
    "monitored": {
        "podMonitor": {"enabled": True},
        "service": {"type": "ClusterIP"},
        "tlsSecretName": "",
        "networkPolicy": {"enabled": False},
        "image": {"tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
    },
}


def main(target: pathlib.Path) -> None:
    findings = json.dumps(helm_python.lint(str(CHART), strict=True)["errors"])
    if findings != "[]":
        sys.exit(findings)
    for name, values in VARIANTS.items():
        rendered = helm_python.Chart.load(str(CHART)).render(values, name="sealgate")
        manifests = [text for path, text in sorted(rendered.items()) if path.endswith(".yaml")]
        text = "\n---\n".join(text.strip() for text in manifests if text.strip())
        (target / f"{name}.yaml").write_text(text + "\n")


main(pathlib.Path(sys.argv[1]))
