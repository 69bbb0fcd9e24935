"""Training: nested losses, whole models, heads on frozen encoders, and the loop that trains them.

    losses, tasks, heads             nested losses; whole models and heads as tasks
    samples, batches, data           samples of shards and folders, as batches; batches in memory, augmentations
    loop, optimiser, history         the loop, optimiser and schedule, results of epochs
    checkpoints, process_group       exact resume; several workers
    train_model, tokenizer           a whole model from its config to its folder
    train_head, head_data            a head from a table to its folder
    apply_head                       a table through a head into another table

Does not spread work over machines: `fit` uses an existing process group and never makes one.
"""
