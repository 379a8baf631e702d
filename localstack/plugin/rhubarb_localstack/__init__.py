"""What LocalStack 4.14 lacks where there is no Docker, through LocalStack's own entry points.

`plugins` names the four parts: DynamoDB by moto (`dynamodb`), Lambda by processes of this machine
(`executor`, over `sandbox` and `runtime_api`), Scheduler that fires (`scheduler`, over
`expressions`), and a gateway that listens on loopback only (`gateway`).

Nothing here outlives the emulator: its state is in memory, and a crash loses it.
"""
