"""One sentence of every language that can be asked for: the train leaves at eight, and we buy bread and fruit."""

# ruff: noqa: RUF001 the letters of other alphabets are meant

from __future__ import annotations

SAMPLES: dict[str, str] = {
    "en": "the train leaves at eight and we buy bread and fruit at the market",
    "es": "el tren sale a las ocho y compramos pan y fruta en el mercado",
    "pt": "o trem parte às oito horas e nós compramos pão e frutas no mercado",
    "ar": "يغادر القطار في الساعة الثامنة ونشتري الخبز والفاكهة من السوق",
    "hi": "रेलगाड़ी आठ बजे चलती है और हम बाज़ार से रोटी और फल खरीदते हैं",
    "fr": "le train part à huit heures et nous achetons du pain et des fruits au marché",
    "ru": "поезд отправляется в восемь часов и мы покупаем хлеб и фрукты на рынке",
    "de": "der Zug fährt um acht Uhr ab und wir kaufen Brot und Obst auf dem Markt",
    "ja": "電車は八時に出発して、私たちは市場でパンと果物を買います",
    "it": "il treno parte alle otto e noi compriamo il pane e la frutta al mercato",
    "bn": "ট্রেনটি আটটায় ছাড়ে এবং আমরা বাজার থেকে রুটি ও ফল কিনি",
    "uk": "потяг вирушає о восьмій годині і ми купуємо хліб та фрукти на ринку",
    "th": "รถไฟออกเวลาแปดนาฬิกาและเราซื้อขนมปังกับผลไม้ที่ตลาด",
    "ur": "ریل گاڑی آٹھ بجے روانہ ہوتی ہے اور ہم بازار سے روٹی اور پھل خریدتے ہیں",
    "ta": "ரயில் எட்டு மணிக்கு புறப்படுகிறது நாங்கள் சந்தையில் ரொட்டியும் பழமும் வாங்குகிறோம்",
    "te": "రైలు ఎనిమిది గంటలకు బయలుదేరుతుంది మేము సంతలో రొట్టె మరియు పండ్లు కొంటాము",
    "bg": "влакът тръгва в осем часа и ние купуваме хляб и плодове от пазара",
    "ko": "기차는 여덟 시에 출발하고 우리는 시장에서 빵과 과일을 삽니다",
    "pl": "pociąg odjeżdża o ósmej i kupujemy chleb oraz owoce na targu",
    "he": "הרכבת יוצאת בשעה שמונה ואנחנו קונים לחם ופירות בשוק",
    "fa": "قطار ساعت هشت حرکت می‌کند و ما از بازار نان و میوه می‌خریم",
    "vi": "tàu khởi hành lúc tám giờ và chúng tôi mua bánh mì và trái cây ở chợ",
    "ne": "रेल आठ बजे छुट्छ र हामी बजारबाट रोटी र फलफूल किन्छौं",
    "sw": "treni inaondoka saa mbili asubuhi na tunanunua mkate na matunda sokoni",
    "kn": "ರೈಲು ಎಂಟು ಗಂಟೆಗೆ ಹೊರಡುತ್ತದೆ ಮತ್ತು ನಾವು ಮಾರುಕಟ್ಟೆಯಲ್ಲಿ ರೊಟ್ಟಿ ಮತ್ತು ಹಣ್ಣು ಕೊಳ್ಳುತ್ತೇವೆ",
    "mr": "गाडी आठ वाजता सुटते आणि आम्ही बाजारातून भाकरी आणि फळे विकत घेतो",
    "gu": "ટ્રેન આઠ વાગ્યે ઉપડે છે અને અમે બજારમાંથી રોટલી અને ફળ ખરીદીએ છીએ",
    "pa": "ਰੇਲ ਗੱਡੀ ਅੱਠ ਵਜੇ ਚੱਲਦੀ ਹੈ ਅਤੇ ਅਸੀਂ ਬਾਜ਼ਾਰ ਤੋਂ ਰੋਟੀ ਅਤੇ ਫਲ ਖਰੀਦਦੇ ਹਾਂ",
    "ml": "തീവണ്ടി എട്ടു മണിക്ക് പുറപ്പെടുന്നു ഞങ്ങൾ ചന്തയിൽ നിന്ന് അപ്പവും പഴവും വാങ്ങുന്നു",
    "fi": "juna lähtee kello kahdeksan ja me ostamme leipää ja hedelmiä torilta",
    "zh": "火车八点出发，我们在市场买面包和水果",
}
