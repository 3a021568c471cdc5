"""The ground floor: format, commit log, shards; imports no Ray, torch or Prefect."""
