"""A function that needs nothing but Python: fails the records that ask for it, and reports the others.

What it has done goes to the queue DONE_URL, by a request written out by hand; the emulators read the
region from the signature and check nothing else of it.
"""

import json
import os
import urllib.parse
import urllib.request

ROOT = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
VERSION = "first"


def main():
    while True:
        with urllib.request.urlopen(f"{ROOT}/next") as reply:
            request_id = reply.headers["Lambda-Runtime-Aws-Request-Id"]
            event = json.loads(reply.read())
        answer = json.dumps(handle(event)).encode()
        urllib.request.urlopen(f"{ROOT}/{request_id}/response", data=answer).close()


def handle(event):
    if "Records" not in event:
        return {"version": VERSION, "endpoint": os.environ["AWS_ENDPOINT_URL"]}
    failed = [record for record in event["Records"] if record["body"] == "fail"]
    for record in event["Records"]:
        if record not in failed:
            report(record["body"])
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}


def report(body):
    region = os.environ["AWS_REGION"]
    form = {"Action": "SendMessage", "QueueUrl": os.environ["DONE_URL"], "MessageBody": f"did {body}"}
    request = urllib.request.Request(
        os.environ["AWS_ENDPOINT_URL"],
        data=urllib.parse.urlencode(form).encode(),
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{region}/sqs/aws4_request,"
            " SignedHeaders=host, Signature=none",
        },
    )
    urllib.request.urlopen(request).close()


main()
