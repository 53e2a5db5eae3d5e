# SPDX-License-Identifier: Apache-2.0
"""Commands of the docs that no test runs, by the page that shows them, and why."""

NOT_RUN = {
    # they install everything, or run this suite
    "README.md": [
        "make install",
        "make train",
        "make test",
    ],
    # hours of training
    "ablations.md": [
        "python tools/ablate.py",
    ],
    # minutes of measuring
    "custom_data.md": [
        "python benchmarks/fine_tuning.py --json FILE",
    ],
    # they need Detectron2 or a machine with several GPUs
    "detectron2.md": [
        "make test-detectron2 DETECTRON2_PYTHON=/path/to/its/venv/bin/python",
        "python detectron2/tools/lazyconfig_train_net.py --config-file configs/dino/dino_tiny_shapes.py",
    ],
    # they need several machines or GPUs
    "distributed.md": [
        "torchrun --standalone --nproc-per-node 8 train_net.py --config-file configs/dino/dino_r50_4scale_12ep.py",
        "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node0:29500 --rdzv-id dino train_net.py --config-file configs/dino/dino_r50_4scale_12ep.py",
        "sbatch --nodes 2 tools/slurm_train.sh --config-file configs/dino/dino_r50_4scale_12ep.py",
        "torchrun --standalone --nproc-per-node 8 train_net.py --config-file configs/dino/dino_swin_large_4scale_12ep_fsdp.py",
    ],
    # hours of training, Objects365, or a model that finds something (tests/report/test_detect.py)
    "evaluation.md": [
        "python -m dino_d2.report --config-file output/dino_tiny_shapes/config.yaml --weights output/dino_tiny_shapes/model_final.pth --output report --store-threshold",
        "python tools/draw_matching.py curves output/dino_tiny_shapes_instruments --output matching.png",
        "python tools/ablate.py",
        "python train_net.py --config-file configs/known/shapes_known_objects_70_30.py train.max_iter=600 train.eval_period=600",
        "python train_net.py --config-file configs/known/shapes_known_objects_70_30_given.py --eval-only train.init_checkpoint=output/shapes_known_objects_70_30/model_final.pth",
        "python train_net.py --config-file configs/known/shapes_known_labels.py train.max_iter=600 train.init_checkpoint=output/dino_tiny_shapes/model_final.pth",
        "python -m dino_d2.checkpoint.transfer output/dino_swin_large_5scale_26ep/model_final.pth o365_to_coco.pth",
    ],
    # more than an hour of training
    "family.md": [
        "python tools/compare_family.py configs/*/*_tiny_shapes.py --seeds 1 2 3 --iterations 1000 --evaluations 5",
        "python tools/compare_family.py configs/dino/dino_tiny_shapes.py configs/dn_detr/dn_deformable_detr_plus_plus_tiny_shapes.py configs/dab_detr/dab_deformable_detr_tiny_shapes.py model.criterion.class_weight=2.0 --seeds 1 2 3 --iterations 1000 --evaluations 1 --output output/family_class_2",
    ],
    # they install PyTorch or a compiler
    "install.md": [
        "python -m venv .venv && . .venv/bin/activate",
        'pip install --upgrade pip "setuptools>=77" wheel ninja',
        'pip install "torch>=2.11" torchvision',
        "pip install --no-build-isolation --editable .",
        'CUDA=$(python -c "import torch; print(torch.version.cuda)")',
        'pip install "nvidia-cuda-nvcc==$CUDA.*" "nvidia-nvvm==$CUDA.*" "nvidia-cuda-crt==$CUDA.*" "nvidia-cuda-cccl==$CUDA.*"',
        "FORCE_CUDA=1 DINO_D2_REQUIRE_OP=1 python setup.py build_ext --inplace",
    ],
    # minutes of counting at full size, or published weights
    "model_zoo.md": [
        "python tools/analyze_model.py --config-file configs/dino/dino_r50_4scale_12ep.py --size 800 1280",
        "python train_net.py --config-file configs/dino/dino_r50_4scale_12ep.py --eval-only train.init_checkpoint=checkpoint0011_4scale.pth",
    ],
    # benchmarks, or a GPU
    "performance.md": [
        "python benchmarks/ms_deform_attn.py --quick --json benchmarks/results/ms_deform_attn_cpu_quick.json",
        "python benchmarks/inference.py --batch 1 --seconds 6 --json benchmarks/results/inference_cpu.json",
        "python train_net.py --config-file configs/dino/dino_tiny_shapes.py --eval-only train.init_checkpoint=output/dino_tiny_shapes/model_final.pth train.amp.enabled=true",
        "python benchmarks/train_step.py --size 512 640 --dtype float32 --seconds 40 --json benchmarks/results/train_step_cpu.json",
        "python benchmarks/dataset_startup.py generate datasets/large/objects365 --images 1742289",
        "python benchmarks/dataset_startup.py measure datasets/large/objects365 --ranks 2 --workers 2",
        "pytest tests -m gpu",
        "python benchmarks/gpu_suite.py --json FILE",
    ],
    # a video or a camera
    "predict.md": [
        "python demo/demo.py --config-file ... --weights ... --input holiday.mp4 --output found",
        "python demo/demo.py --config-file ... --weights ... --input webcam --output found",
    ],
    # a run of your own
    "resume.md": [
        "srun python train_net.py --config-file ... --resume",
    ],
    # a file of your own
    "security.md": [
        "python train_net.py --config-file output/my_run/config.yaml --eval-only train.trust_config=True",
    ],
    # minutes of training, COCO, or eight GPUs
    "start.md": [
        "make train",
        "python train_net.py --config-file configs/dino/dino_r50_4scale_12ep.py --num-gpus 8",
        "python train_net.py --config-file configs/dino/dino_r50_4scale_12ep.py --num-gpus 8 --resume",
        "python train_net.py --config-file configs/dino/dino_r50_4scale_12ep.py --eval-only train.init_checkpoint=model.pth",
        "python -m dino_d2.data.shapes --root datasets/shapes_256 --train 5000 --val 500 --size 256 --seed 1",
        "python train_net.py --config-file configs/dino/dino_tiny_shapes.py 'dataloader.train.dataset.names={root: datasets/shapes_256, train: 5000, val: 500, size: 256, seed: 1}' 'dataloader.test.dataset.names={train: 5000, val: 500, size: 256, seed: 1}'",
        "python train_net.py --config-file configs/dino/dino_tiny_coco.py data.train.json=eight.json data.train.images=train2017 data.val.json=eight.json data.val.images=train2017 model.detector.backbone.pretrained=False model.detector.backbone.freeze_stages=0 model.detector.backbone.freeze_batch_norm=False 'dataloader.train.mapper.augmentations=${dataloader.test.mapper.augmentations}' dataloader.test.mapper.augmentations.short_edge_length=224 dataloader.test.mapper.augmentations.max_size=336 optimizer.lr=5e-4 'lr_multiplier.scheduler.milestones=[75,100]' train.max_iter=600",
    ],
}
