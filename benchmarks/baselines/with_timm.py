"""Full fine-tuning as in timm's training script, with timm's loader, optimizer and schedule.

    python with_timm.py PHOTOS EPOCHS BATCH [fast]

``fast`` corresponds to the script's options ``--channels-last --amp --amp-dtype bfloat16``. Prints the number of images
and seconds as JSON.
"""

import json
import sys
import time

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2


def main() -> None:
    """Train, and print the result."""
    photos, epochs, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    fast = sys.argv[4:] == ["fast"]
    device = torch.device("cpu")
    dataset = create_dataset("", root=f"{photos}/train", split="train", is_training=True, batch_size=batch_size)
    model = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=len(dataset.reader.class_to_idx))
    if fast:
        model = model.to(memory_format=torch.channels_last)
    loader = create_loader(
        dataset, input_size=(3, 224, 224), batch_size=batch_size, is_training=True, scale=(0.6, 1.0), hflip=0.5,
        color_jitter=None, interpolation="bilinear", num_workers=2, use_prefetcher=False, device=device,
    )  # fmt: skip
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.01)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    loss_function = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    count, start = 0, time.perf_counter()
    for epoch in range(epochs):
        model.train()
        for images, targets in loader:
            inputs = images.contiguous(memory_format=torch.channels_last) if fast else images
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                loss = loss_function(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            count += len(targets)  # the loader drops a last batch that is not full
        scheduler.step(epoch + 1)
    print(json.dumps([count, time.perf_counter() - start]))


if __name__ == "__main__":
    main()
