#!/bin/sh
# LocalStack runs this in its container as soon as it is ready (compose.yaml mounts what is named here).
# The functions get their endpoint from LocalStack itself: theirs is not the container's own address.
exec python3 /rhubarb/localstack/deploy --endpoint http://127.0.0.1:4566 --functions-endpoint ""
