"""The paper's equations in NumPy float64, capsule by capsule: slow and obvious."""

import numpy as np


def squash(t):
    """Equation (3), of one vector."""
    t = np.asarray(t, np.float64)
    length = np.sqrt(np.sum(t**2))
    return t * 0 if length == 0 else length**2 / (1 + length**2) * t / length


def convolve(image, kernel, bias, stride):
    """VALID convolution of one image [H, W, C]."""
    k = kernel.shape[0]
    size = (image.shape[0] - k) // stride + 1
    out = np.zeros((size, size, kernel.shape[3]))
    for row in range(size):
        for column in range(size):
            patch = image[row * stride : row * stride + k, column * stride : column * stride + k]
            out[row, column] = np.tensordot(patch, kernel, 3) + bias
    return out


def propagate(u, f, p):
    """Equation (1): u [K, d], f [J, K, d, D], p [J, K] to s [J, D]."""
    u, f, p = (np.asarray(x, np.float64) for x in (u, f, p))
    s = np.zeros((f.shape[0], f.shape[3]))
    for j in range(f.shape[0]):
        for i in range(u.shape[0]):
            s[j] += p[j, i] * (u[i] @ f[j, i])
    return s


def regress(s, f_reg):
    """Equations (2) and (3): s [J, D], f_reg [J, K, d, D] to [J, K, d]."""
    s, f_reg = np.asarray(s, np.float64), np.asarray(f_reg, np.float64)
    return np.array([[squash(f_reg[j, i] @ s[j]) for i in range(f_reg.shape[1])] for j in range(len(s))])


def agreement(u_reg, u, gamma=5.12):
    """Equation (4): u_reg [J, K, d], u [K, d] to d [J]."""
    u_reg, u = np.asarray(u_reg, np.float64), np.asarray(u, np.float64)
    return np.array([np.exp(-gamma * np.mean([np.sum((r - v) ** 2) for r, v in zip(rows, u)])) for rows in u_reg])


def _mlp(layers, x, last=lambda y: y):
    """Fully connected layers (kernel, bias), ReLU between them."""
    for i, (kernel, bias) in enumerate(layers):
        x = x @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
        x = last(x) if i == len(layers) - 1 else np.maximum(x, 0)
    return x


def ladder_capsnet(params, image, k, dim=8, pose_dim=16):
    """The paper variant on one image [I, I, C]: activity [J], pose [J, D], index [K], primary activity [n]."""
    primary, ladder = params["primary_capsules"], params["ladder"]
    arrays = {name: {part: np.asarray(value, np.float64) for part, value in primary[name].items()} for name in primary}
    x = np.maximum(convolve(np.asarray(image, np.float64), **arrays["conv1"], stride=1), 0)
    t = convolve(x, **arrays["primary"], stride=2).reshape(-1, dim)
    u = np.array([squash(row) for row in t])
    activity = np.sqrt((u**2).sum(axis=1))
    index = np.array(sorted(sorted(range(len(u)), key=lambda i: (-activity[i], i))[:k]))
    code = np.zeros(len(u))
    code[index] = 1

    f, f_reg, p = [], [], []
    for j in range(ladder["propagation_bias"].shape[0]):

        def layers(network, count, j=j):
            return [(ladder[network][f"kernel{i}"][j], ladder[network][f"bias{i}"][j]) for i in range(1, count + 1)]

        # The last layers of f and f_reg are stored in the order in which they are contracted.
        last = np.asarray(ladder["propagation_kernel"][j]).transpose(1, 0, 2).reshape(-1, k * dim * pose_dim)
        last_bias = np.asarray(ladder["propagation_bias"][j]).reshape(-1)
        f.append(_mlp([*layers("propagation", 3), (last, last_bias)], code).reshape(k, dim, pose_dim))
        last = np.asarray(ladder["regression_kernel"][j]).transpose(0, 2, 1).reshape(-1, k * dim * pose_dim)
        last_bias = np.asarray(ladder["regression_bias"][j]).T.reshape(-1)
        f_reg.append(_mlp([*layers("regression", 3), (last, last_bias)], code).reshape(k, dim, pose_dim))
        p.append(_mlp(layers("contribution", 4), code, lambda y: 1 / (1 + np.exp(-y))))
    s = propagate(u[index], np.array(f), np.array(p))
    d = agreement(regress(s, np.array(f_reg)), u[index])
    pose = np.array([d_j * s_j / np.sqrt(np.sum(s_j**2)) for d_j, s_j in zip(d, s)])
    return d, pose, index, activity


def loss(d, activity, index, label):
    """The paper's loss of one example."""
    total = 0.0
    for j, d_j in enumerate(d):
        total += max(0, 0.9 - d_j) ** 2 if j == label else 0.5 * max(0, d_j - 0.1) ** 2
    return total + 1e-4 * sum(((i in index) - a) ** 2 for i, a in enumerate(activity))


def route(votes, iterations):
    """Algorithm 1 of Sabour et al. (2017) on one example: votes [n, J, D] to poses [J, D] and coupling [n, J]."""
    votes = np.asarray(votes, np.float64)
    n, classes, _ = votes.shape
    b = np.zeros((n, classes))
    for _ in range(iterations):
        c = np.array([np.exp(row - row.max()) / np.sum(np.exp(row - row.max())) for row in b])
        v = np.array([squash(sum(c[i, j] * votes[i, j] for i in range(n))) for j in range(classes)])
        b = b + np.array([[votes[i, j] @ v[j] for j in range(classes)] for i in range(n)])
    return v, c
