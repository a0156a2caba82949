#!/bin/sh
# client_curl.sh IMAGE [ADDRESS]: class, probabilities and referral of one PNG or JPEG image, as JSON.
set -eu
address=${2:-http://127.0.0.1:8501}
{ printf '{"signature_name": "serving_bytes", "instances": [{"b64": "'
  base64 < "$1" | tr -d '\n'
  printf '"}]}'
} | curl --silent --show-error --fail-with-body --data-binary @- "$address/v1/models/@NAME@:predict"
