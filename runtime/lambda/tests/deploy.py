"""Deploys a folder as a Lambda function that an event source mapping feeds, as plain boto3 calls.

Arguments: the folder, the function's name, the queue's URL, the function's variables as JSON.
"""

import io
import json
import pathlib
import sys
import zipfile

import boto3

folder, name, queue_url, variables = sys.argv[1:]
packed = io.BytesIO()
with zipfile.ZipFile(packed, "w") as archive:
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.is_file():
            archive.write(path, path.name)

queue = boto3.client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
functions = boto3.client("lambda")
functions.create_function(
    FunctionName=name,
    Runtime="provided.al2023",
    Handler="bootstrap",
    Role="arn:aws:iam::000000000000:role/function",
    Code={"ZipFile": packed.getvalue()},
    Timeout=20,
    MemorySize=256,
    Environment={"Variables": json.loads(variables)},
)
functions.create_event_source_mapping(
    FunctionName=name,
    EventSourceArn=queue["Attributes"]["QueueArn"],
    BatchSize=10,
    FunctionResponseTypes=["ReportBatchItemFailures"],
)
