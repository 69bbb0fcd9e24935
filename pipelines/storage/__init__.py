"""Where bytes and arithmetic are: addresses, S3, retries, atomic files, the device, threads that read ahead."""
