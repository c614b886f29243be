"""What ties Graft to ZenML and MLflow: the local stack, strict pipelines, caching by code, tracking, registry."""
