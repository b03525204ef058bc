# What the documents of the original have its users send, of all its releases, as it is typed with curl. It is read by
# test_original.py, and nothing of it is changed for this coordinator.

curl -X POST "$API/jobs" -H "X-Kelpie-Key: $KEY" -H "Content-Type: application/json" -d '{
  "command": "python",
  "arguments": [
    "/path/to/main.py",
    "--arg",
    "value"
  ],
  "environment": { "SOME_VAR": "string"},
  "sync": {
    "before": [
      {
        "bucket": "my-bucket",
        "prefix": "inputs/job1/",
        "local_path": "inputs/",
        "direction": "download"
      },
      {
        "bucket": "my-bucket",
        "prefix": "checkpoints/job1/",
        "local_path": "checkpoints/",
        "direction": "download"
      }
    ],
    "during": [
      {
        "bucket": "my-bucket",
        "prefix": "checkpoints/job1/",
        "local_path": "checkpoints/",
        "direction": "upload"
      }
    ],
    "after": [
      {
        "bucket": "my-bucket",
        "prefix": "outputs/job1/",
        "local_path": "outputs/",
        "direction": "upload"
      }
    ]
 },
  "webhook": "https://myapi.com/kelpie-webhooks",
  "container_group_id": "97f504e8-6de6-4322-b5d5-1777a59a7ad3"
}'
ID=$(curl "$API/jobs?page_size=1" -H "X-Kelpie-Key: $KEY" | head -n 1 | jq -r ".jobs[0].id")

curl "$API/jobs/$ID" -H "X-Kelpie-Key: $KEY"

curl "$API/jobs?status=pending&container_group_id=97f504e8-6de6-4322-b5d5-1777a59a7ad3&page_size=100&page=1&asc=false" -H "X-Kelpie-Key: $KEY"

curl -X POST "$API/jobs/batch" -H "X-Kelpie-Key: $KEY" -d '[
  {
    "command": "python",
    "arguments": ["/path/to/main.py", "--arg", "value"],
    "environment": { "SOME_VAR": "string"},
    "input_bucket": "my-bucket",
    "input_prefix": "inputs/job1/",
    "checkpoint_bucket": "my-bucket",
    "checkpoint_prefix": "checkpoints/job1/",
    "output_bucket": "my-bucket",
    "output_prefix": "outputs/job1/",
    "webhook": "https://myapi.com/kelpie-webhooks",
    "container_group_id": "97f504e8-6de6-4322-b5d5-1777a59a7ad3"
  }
]'

curl -X POST "$API/job" -H "X-Kelpie-Key: $KEY" -d '{
  "command": "python",
  "arguments": [
    "/path/to/main.py",
    "--arg",
    "value"
  ],
  "input_bucket": "my-bucket",
  "input_prefix": "inputs/job1/",
  "checkpoint_bucket": "my-bucket",
  "checkpoint_prefix": "checkpoints/job1/",
  "output_bucket": "my-bucket",
  "output_prefix": "outputs/job1/",
  "webhook": "https://myapi.com/kelpie-webhooks",
  "container_group_id": "97f504e8-6de6-4322-b5d5-1777a59a7ad3"
}'

curl -X DELETE "$API/jobs/$ID" -H "X-Kelpie-Key: $KEY"

curl -X POST "$API/scaling-rules" -H "X-Kelpie-Key: $KEY" -d '{
  "container_group_id": "97f504e8-6de6-4322-b5d5-1777a59a7ad3",
  "min_replicas": 0,
  "max_replicas": 10,
  "idle_threshold_seconds": 300
}'
