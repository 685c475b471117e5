#!/usr/bin/env bash
# Stand-ins for the base images where no registry can be reached: made of Debian's packages, under
# the images' own names, so that Dockerfile and docker-compose.yml stay as users run them. An image
# that is there, or can be pulled, is left alone. Needs root, and apt-get unless mmdebstrap is there.
set -euo pipefail

missing() { # IMAGE
  ! docker image inspect "$1" >/dev/null 2>&1 && ! timeout 120 docker pull --quiet "$1" 2>/dev/null
}

make() { # IMAGE PACKAGES [MMDEBSTRAP-OPTION … -- DOCKER-IMPORT-OPTION …]
  local image=$1 packages=$2 hooks=()
  shift 2
  while [ "$1" != -- ]; do hooks+=("$1"); shift; done
  shift
  if ! command -v mmdebstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap
  fi
  echo "making a stand-in for $image, which cannot be pulled" >&2
  mmdebstrap --quiet --variant=minbase --include="$packages" "${hooks[@]}" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    trixie - | docker import "$@" - "$image" >/dev/null
}

if missing python:3.13-slim; then
  # How this machine reaches its package index goes into the stand-in, for pip to find it there.
  authorities=/etc/ssl/certs/ca-certificates.crt
  index=(--change "ENV PIP_CERT=$authorities")
  for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
    [ -z "${!name:-}" ] || index+=(--change "ENV $name=${!name}")
  done
  make python:3.13-slim python3,python3-pip,python3-venv,ca-certificates \
    --customize-hook="upload ${PIP_CERT:-${SSL_CERT_FILE:-$authorities}} $authorities" \
    --customize-hook='ln -s python3 "$1/usr/bin/python"' -- "${index[@]}"
fi

if missing redis:8; then
  make redis:8 redis-server \
    --customize-hook='install -d -o "$(stat -c %u "$1/var/lib/redis")" "$1/data"' -- \
    --change 'WORKDIR /data'
fi
