#!/usr/bin/env bash
# Writes src/catalogue/models.json.gz and NOTICE from the list in LiteLLM's wheel (MIT): update-catalogue.sh [VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "litellm${1:+==$1}"
version=$(python3 - "$work" <<'PYTHON'
import pathlib, sys, zipfile

work = pathlib.Path(sys.argv[1])
(wheel,) = work.glob("litellm-*.whl")
archive = zipfile.ZipFile(wheel)
version = wheel.name.split("-")[1]
files = {
    "models.json": "litellm/model_prices_and_context_window_backup.json",
    "LICENSE": f"litellm-{version}.dist-info/licenses/LICENSE",
}
for name, path in files.items():
    (work / name).write_bytes(archive.read(path))
print(version)
PYTHON
)
UPDATE_CATALOGUE=$work/models.json CATALOGUE_NOTICE=$work/LICENSE \
  CATALOGUE_SOURCE="LiteLLM $version" CATALOGUE_DATE=$(date -u +%F) \
  cargo test --locked --quiet --lib -- catalogue::tests::the_built_in_list_is_read_and_rewritten_on_request
ls -l src/catalogue/models.json.gz NOTICE
