"""A small DETR on the generated shapes, for comparison with its descendants."""

from ..common.data.shapes import dataloader
from ..common.models.detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import drop_at
from ..common.train import train

model.detector.num_classes = 5
model.detector.embed_dim = 96
model.detector.backbone.update(
    name="resnet10t",
    pretrained=False,
    freeze_stages=0,
    freeze_batch_norm=False,  # from random weights, batch norm must learn its statistics
    options=dict(
        channels=[32, 64, 128, 256], output_stride=16
    ),  # dilated, as the DC5 models: 8 x 8 pixels to attend to
)
model.detector.neck.in_channels = {"res5": 256}
model.detector.encoder.update(num_layers=2, feedforward_dim=256, num_heads=6, dropout=0.0)
model.detector.queries.num_queries = 50
model.detector.decoder.update(num_layers=3, feedforward_dim=256, num_heads=6, dropout=0.0)

optimizer.lr = 1e-3
optimizer.params.lr_factor_func.factors = {}  # nothing is pretrained, so everything learns at one rate
lr_multiplier = drop_at(75, 100, warmup=0.03)

train.output_dir = "./output/detr_tiny_shapes"
train.max_iter = 2000
train.eval_period = 1000
train.checkpointer.period = 500
