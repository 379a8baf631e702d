"""A function on AWS's own runtime client: it takes the SQS event as AWS documents it."""

import json


def handler(event, context):
    """Answers per record: what succeeded with its output, what failed by its id."""
    failures, records = [], {}
    for record in event["Records"]:
        task = json.loads(record["body"])
        try:
            output = report(**task["args"])
        except Exception as error:
            print(f"task {task['id']} failed: {error}")
            failures.append({"itemIdentifier": record["messageId"]})
        else:
            records[record["messageId"]] = {"outcome": "succeeded", "output": output}
    return {"batchItemFailures": failures, "rhubarb": {"v": 1, "records": records}}


def report(month):
    """The work itself."""
    return {"month": month, "pages": 12}
