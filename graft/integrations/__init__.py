"""ZenML and MLflow: stack, strict pipelines, step caching, tracking, registry. No domain module imports either."""
