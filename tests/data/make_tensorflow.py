"""Made the files in `tensorflow/`, which aren't read: `pip install tf-keras tensorflow-cpu`, then `python make_tensorflow.py` here."""

from pathlib import Path

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

FOLDER = Path(__file__).parent / "tensorflow"

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    (FOLDER / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    model.export(str(FOLDER / "exported"))
    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((1, 8)))
    frozen = convert_variables_to_constants_v2(function).graph.as_graph_def()
    tf.io.write_graph(frozen, str(FOLDER), "frozen.pb", as_text=False)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # as TensorFlow 1 did it
        tf.compat.v1.get_variable("conv1/weights", (3, 3, 3, 4))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(FOLDER / "saver" / "slim.ckpt"), write_meta_graph=False)
