import { crossEntropy } from '../../src/ops/cross_entropy.js';
import {
  bceWithLogits,
  clipContrastive,
  cosineSimilarity,
  distillationLoss,
  huberLoss,
  klDiv,
  l1Loss,
  mseLoss,
  smoothL1Loss,
} from '../../src/ops/losses.js';
import { logSoftmax, softmax } from '../../src/ops/softmax.js';
import { detach } from '../../src/ops/views.js';
import { testGroup } from '../helpers/reference.js';

testGroup('ops/ops_loss', {
  cross_entropy: ({ x, t, w }, { reduction, ignore_index, label_smoothing }) =>
    crossEntropy(x!, t!, { reduction, weight: w ?? null, ignoreIndex: ignore_index, labelSmoothing: label_smoothing }),
  cross_entropy_prob: ({ x, p }, { reduction }) => crossEntropy(x!, softmax(p!), { reduction }),
  mse: ({ a, b }, { reduction }) => mseLoss(a!, b!, { reduction }),
  l1: ({ a, b }, { reduction }) => l1Loss(a!, b!, { reduction }),
  smooth_l1: ({ a, b }, { reduction }) => smoothL1Loss(a!, b!, { reduction }),
  huber: ({ a, b }, { reduction, delta }) => huberLoss(a!, b!, { reduction, delta }),
  bce_with_logits: ({ x, y, pw }, { reduction }) =>
    bceWithLogits(x!, detach(y!), { reduction, posWeight: pw ? detach(pw) : null }),
  kl_div: ({ s, t }, { reduction }) => klDiv(logSoftmax(s!), logSoftmax(t!), { reduction, logTarget: true }),
  distillation: ({ s, t, y }, { temperature, alpha }) => distillationLoss(s!, t!, y!, { temperature, alpha }),
  cosine_similarity: ({ a, b }, { dim, eps }) => cosineSimilarity(a!, b!, { axis: dim, eps }),
  clip_contrastive: ({ i, t, s }) => clipContrastive(i!, t!, s!),
});
