#!/bin/sh
# client_curl.sh IMAGE [ADDRESS]: the answer to one PNG or JPEG image, as JSON.
# BUSMT_TOKEN: token of the server, if it asks for one.
set -eu
address=${2:-http://127.0.0.1:8501}
{ printf '{"signature_name": "serving_bytes", "instances": [{"b64": "'
  base64 < "$1" | tr -d '\n'
  printf '"}]}'
} | curl --silent --show-error --fail-with-body --max-time 60 \
  --header 'Content-Type: application/json' --header "Authorization: Bearer ${BUSMT_TOKEN:-}" \
  --data-binary @- "$address/v1/models/out:predict"
