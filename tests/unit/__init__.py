"""Plain functions: no Redis, no DynamoDB, and no network beyond a loopback server."""
