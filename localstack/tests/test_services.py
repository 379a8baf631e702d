"""What the project stands on, asked of the emulator with boto3, through the stack that `up` deployed."""

import json
import time
import unittest
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from support import EMULATOR, HERE, Home

# Enough for a visibility timeout, a cold start and both polls, many times over.
MESSAGES_POLLS_MAX = 6


class Services(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = Home()
        cls.addClassCleanup(cls.home.close)
        cls.deploy(version="first")
        cls.queue = cls.url_of("small-work")
        cls.done = cls.url_of("small-done")
        cls.dead = cls.url_of("small-dead")

    @classmethod
    def deploy(cls, version: str):
        zips = cls.home.folder / "zips"
        zips.mkdir(exist_ok=True)
        program = (HERE / "bootstrap.py").read_text().replace('"first"', f'"{version}"')
        with zipfile.ZipFile(zips / "work.zip", "w") as archive:
            entry = zipfile.ZipInfo("bootstrap")
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, f"#!/usr/bin/env python3\n{program}")
        cls.home.start(
            *("--template", str(HERE / "template.yaml")),
            *("--zips", str(zips), "--stack", "small"),
        )

    @classmethod
    def client(cls, service: str):
        # A worker thread of the emulator that is slow to wake must not become a second write.
        once = Config(retries={"total_max_attempts": 1})
        return boto3.client(
            service,
            endpoint_url=cls.home.endpoint,
            region_name="eu-central-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=once,
        )

    @classmethod
    def url_of(cls, name: str) -> str:
        return cls.client("sqs").get_queue_url(QueueName=name)["QueueUrl"]

    def receive(self, url: str, count: int) -> list[str]:
        """Takes messages off a queue by long polls until so many have come."""
        sqs, bodies = self.client("sqs"), []
        for _ in range(MESSAGES_POLLS_MAX):
            if len(bodies) >= count:
                return sorted(bodies)
            got = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=10, MaxNumberOfMessages=10)
            for message in got.get("Messages", []):
                bodies.append(message["Body"])
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        self.fail(f"{count} messages expected, {bodies} came")

    def test_lambda_runs_batches_and_only_failed_records_come_back(self):
        entries = [{"Id": body, "MessageBody": body} for body in ("a", "fail", "b")]
        self.client("sqs").send_message_batch(QueueUrl=self.queue, Entries=entries)
        self.assertEqual(self.receive(self.done, 2), ["did a", "did b"])
        self.assertEqual(self.receive(self.dead, 1), ["fail"])

    def test_lambda_runs_new_code_after_a_second_up(self):
        self.assertEqual(self.invoke(), {"version": "first", "endpoint": self.home.endpoint})
        self.deploy(version="second")
        self.assertEqual(self.invoke()["version"], "second")

    def invoke(self):
        reply = self.client("lambda").invoke(FunctionName="small-work", Payload=b"{}")
        self.assertNotIn("FunctionError", reply)
        return json.loads(reply["Payload"].read())

    def test_of_many_conditional_writes_one_wins(self):
        def claim(round_number: int, holder: int) -> bool:
            item = {"pk": {"S": f"task{round_number}"}, "sk": {"S": "row"}, "by": {"N": f"{holder}"}}
            try:
                dynamodb.put_item(
                    TableName="small", Item=item, ConditionExpression="attribute_not_exists(pk)"
                )
            except ClientError as error:
                self.assertEqual(error.response["Error"]["Code"], "ConditionalCheckFailedException")
                return False
            return True

        dynamodb = self.client("dynamodb")
        with ThreadPoolExecutor(8) as threads:
            for round_number in range(50):
                won = threads.map(claim, [round_number] * 8, range(8))
                self.assertEqual(sum(won), 1)

    def test_dynamodb_answers_with_its_time(self):
        reply = self.client("dynamodb").describe_table(TableName="small")
        headers = reply["ResponseMetadata"]["HTTPHeaders"]
        self.assertIsNotNone(parsedate_to_datetime(headers["date"]).tzinfo)

    def test_a_sparse_index_holds_only_what_has_its_attribute(self):
        dynamodb = self.client("dynamodb")
        due = {"due": {"S": "0"}, "due_at": {"N": "5"}}
        for name, extra in (("late", due), ("done", {})):
            dynamodb.put_item(
                TableName="small", Item={"pk": {"S": f"index/{name}"}, "sk": {"S": "row"}, **extra}
            )
        found = dynamodb.query(
            TableName="small",
            IndexName="due",
            KeyConditionExpression="due = :shard and due_at < :now",
            ExpressionAttributeValues={":shard": {"S": "0"}, ":now": {"N": "9"}},
        )
        self.assertEqual([item["pk"]["S"] for item in found["Items"]], ["index/late"])

    def test_s3_keeps_objects_in_the_stacks_bucket(self):
        s3 = self.client("s3")
        s3.put_object(Bucket="small-000000000000", Key="blobs/one", Body=b"content")
        kept = s3.get_object(Bucket="small-000000000000", Key="blobs/one")
        self.assertEqual(kept["Body"].read(), b"content")

    @unittest.skipUnless(EMULATOR == "localstack", "tests the plugin's clock")
    def test_a_schedule_fires_at_its_time_and_is_gone(self):
        scheduler = self.client("scheduler")
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 3))
        queue = self.client("sqs").create_queue(QueueName="small-ticks")["QueueUrl"]
        scheduler.create_schedule(
            Name="tick",
            ScheduleExpression=f"at({at})",
            ActionAfterCompletion="DELETE",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={
                "Arn": "arn:aws:sqs:eu-central-1:000000000000:small-ticks",
                "RoleArn": "arn:aws:iam::000000000000:role/any",
                "Input": "tick of <aws.scheduler.scheduled-time>",
            },
        )
        self.assertEqual(self.receive(queue, 1), [f"tick of {at}Z"])
        self.assertGreaterEqual(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), at)
        self.assertEqual(scheduler.list_schedules()["Schedules"], [])

    def test_a_false_condition_leaves_its_resource_out(self):
        resources = self.client("cloudformation").describe_stack_resources(StackName="small")
        types = {resource["ResourceType"] for resource in resources["StackResources"]}
        self.assertNotIn("AWS::ECS::CapacityProvider", types)
        self.assertIn("AWS::Lambda::EventSourceMapping", types)


if __name__ == "__main__":
    unittest.main()
