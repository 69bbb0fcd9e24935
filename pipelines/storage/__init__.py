"""Where bytes are: addresses, S3, atomic files, the device, and threads that read ahead."""
